// Google Cloud Storage for tests: fake-gcs-server, with what its XML API lacks and a job that writes needs. The library takes a PUT
// whatever its condition, knows uploads in parts by the JSON API alone, and lets in everybody. In front of it stand here, as Google
// documents them:
//
//   - the header x-goog-if-generation-match of a PUT, and x-goog-generation in the answer:
//     https://docs.cloud.google.com/storage/docs/request-preconditions
//   - uploads in parts: https://docs.cloud.google.com/storage/docs/multipart-uploads
//   - codes of errors: https://docs.cloud.google.com/storage/docs/xml-api/reference-status
//   - a token that each request has to bring, and the metadata server of a machine that gives it:
//     https://docs.cloud.google.com/compute/docs/access/authenticate-workloads
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"strings"
	"sync"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

func main() {
	address := flag.String("address", "127.0.0.1:0", "address to listen on")
	bucket := flag.String("bucket", "", "name of the one bucket")
	token := flag.String("token", "", "what who may read and write says")
	flag.Parse()
	library, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, PublicHost: *address})
	if err != nil {
		log.Fatal(err)
	}
	library.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: *bucket})
	front := &front{library: library, rest: library.HTTPHandler(), token: *token, uploads: map[string]*upload{}}
	http.HandleFunc("/computeMetadata/v1/instance/service-accounts/default/token", front.giveToken)
	http.Handle("/", front)
	log.Fatal(http.ListenAndServe(*address, nil))
}

// What stands in front of the library.
type front struct {
	library *fakestorage.Server
	rest    http.Handler
	token   string
	// Held while something is written: nothing comes between a condition and what is written on it.
	writing sync.Mutex
	uploads map[string]*upload
}

func (f *front) giveToken(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Metadata-Flavor") != "Google" {
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": %q, "expires_in": 3599, "token_type": "Bearer"}`, f.token)
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+f.token {
		refuse(w, http.StatusUnauthorized, "AuthenticationRequired", "Authentication required.")
		return
	}
	bucket, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if _, err := f.library.ListObjectsWithOptionsPaginated(bucket, fakestorage.ListOptions{MaxResults: 1}); err != nil {
		refuse(w, http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist.")
		return
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		f.read(w, r, bucket, name)
		return
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		f.begin(w, bucket, name)
	case query.Has("uploadId"):
		f.goOn(w, r, bucket, name)
	case r.Method == http.MethodPut:
		f.put(w, r, bucket, name)
	default:
		f.rest.ServeHTTP(w, r)
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version='1.0' encoding='UTF-8'?><Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}
