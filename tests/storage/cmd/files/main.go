// A web server over a folder, with TLS, as any static web server is: whole files, ranges, ETags by time, no listings for programs.
package main

import (
	"flag"
	"log"
	"net/http"
)

func main() {
	address := flag.String("address", "127.0.0.1:0", "address to listen on")
	certificate := flag.String("certificate", "", "PEM file of the certificate")
	key := flag.String("key", "", "PEM file of the key")
	folder := flag.String("folder", ".", "folder to serve")
	flag.Parse()
	log.Fatal(http.ListenAndServeTLS(*address, *certificate, *key, http.FileServer(http.Dir(*folder))))
}
