// Objects in one piece: https://docs.cloud.google.com/storage/docs/xml-api/put-object-upload
package main

import (
	"io"
	"net/http"
	"strconv"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

func (f *front) read(w http.ResponseWriter, r *http.Request, bucket, name string) {
	if r.URL.Query().Has("uploads") {
		f.list(w, bucket)
		return
	}
	if object, err := f.library.GetObject(bucket, name); err != nil && name != "" {
		refuse(w, http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	} else if tag := r.Header.Get("If-None-Match"); tag != "" && tag == strconv.Quote(object.Etag) {
		w.WriteHeader(http.StatusNotModified)
	} else {
		f.rest.ServeHTTP(w, r)
	}
}

// Puts an object, if its name has the generation that is asked for: 0 where it is to be none.
func (f *front) put(w http.ResponseWriter, r *http.Request, bucket, name string) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var current int64
	if object, err := f.library.GetObject(bucket, name); err == nil {
		current = object.Generation
	}
	if asked := r.Header.Get("x-goog-if-generation-match"); asked != "" && asked != strconv.FormatInt(current, 10) {
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed",
			"At least one of the pre-conditions you specified did not hold.")
		return
	}
	f.place(w, bucket, name, content)
}

// Puts an object in its place, and says in the headers which one it is.
func (f *front) place(w http.ResponseWriter, bucket, name string, content []byte) *fakestorage.Object {
	f.library.CreateObject(fakestorage.Object{
		ObjectAttrs: fakestorage.ObjectAttrs{BucketName: bucket, Name: name},
		Content:     content,
	})
	object, err := f.library.GetObject(bucket, name)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError", err.Error())
		return nil
	}
	w.Header().Set("ETag", strconv.Quote(object.Etag))
	w.Header().Set("x-goog-generation", strconv.FormatInt(object.Generation, 10))
	return &object
}
