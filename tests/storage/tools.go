//go:build tools

package storage

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
)
