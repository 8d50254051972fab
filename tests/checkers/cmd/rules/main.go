// rules checks Prometheus rules as `promtool check rules` does (groups, expressions, templates), and prints the selectors of
// their expressions, one a line: what each reads. Given expressions instead (-expressions, one a line), it does so for these.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	plain := flag.Bool("expressions", false, "read expressions, one a line, instead of rules")
	flag.Parse()
	if err := check(os.Stdin, *plain); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(input io.Reader, plain bool) error {
	expressions, err := expressions(input, plain)
	if err != nil {
		return err
	}
	promql := parser.NewParser(parser.Options{})
	for _, expression := range expressions {
		parsed, err := promql.ParseExpr(expression)
		if err != nil {
			return fmt.Errorf("%s: %w", expression, err)
		}
		for _, selector := range parser.ExtractSelectors(parsed) {
			fmt.Println(text(selector))
		}
	}
	return nil
}

func expressions(input io.Reader, plain bool) (found []string, err error) {
	if plain {
		lines := bufio.NewScanner(input)
		for lines.Scan() {
			found = append(found, lines.Text())
		}
		return found, lines.Err()
	}
	yaml, err := io.ReadAll(input)
	if err != nil {
		return nil, err
	}
	groups, faults := rulefmt.Parse(yaml, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if len(faults) > 0 {
		return nil, faults[0]
	}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			found = append(found, rule.Expr)
		}
	}
	return found, nil
}

func text(selector []*labels.Matcher) string {
	written := parser.VectorSelector{LabelMatchers: selector}
	for _, matcher := range selector {
		if matcher.Name == model.MetricNameLabel {
			written.Name = matcher.Value
		}
	}
	return written.String()
}
