// Objects that come in parts: https://docs.cloud.google.com/storage/docs/multipart-uploads. An object is there when its upload is
// completed with a list of its parts; of an upload that is aborted nothing is left.
package main

import (
	"bytes"
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// Bytes that each part but the last has at least.
const least = 5 << 20

// An upload that has begun.
type upload struct {
	bucket, name string
	parts        map[int]part
}

type part struct {
	content []byte
	tag     string
}

func (f *front) begin(w http.ResponseWriter, bucket, name string) {
	id := fmt.Sprintf("upload-%d-%x", len(f.uploads), md5.Sum([]byte(name)))
	f.uploads[id] = &upload{bucket, name, map[int]part{}}
	answer(w, struct {
		XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key, UploadId string
	}{Bucket: bucket, Key: name, UploadId: id})
}

// What is done with an upload that has begun.
func (f *front) goOn(w http.ResponseWriter, r *http.Request, bucket, name string) {
	id := r.URL.Query().Get("uploadId")
	upload := f.uploads[id]
	if upload == nil || upload.bucket != bucket || upload.name != name {
		refuse(w, http.StatusNotFound, "NoSuchUpload", "The requested upload was not found.")
		return
	}
	switch r.Method {
	case http.MethodPut:
		upload.take(w, r)
	case http.MethodPost:
		if content := upload.whole(w, r); content != nil {
			if object := f.place(w, bucket, name, content); object != nil {
				delete(f.uploads, id)
				answer(w, struct {
					XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
					Bucket, Key, ETag string
				}{Bucket: bucket, Key: name, ETag: strconv.Quote(object.Etag)})
			}
		}
	case http.MethodDelete:
		delete(f.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (u *upload) take(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.URL.Query().Get("partNumber"))
	if err != nil || number < 1 || number > 10_000 {
		refuse(w, http.StatusBadRequest, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive.")
		return
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	tag := fmt.Sprintf("%q", fmt.Sprintf("%x", md5.Sum(content)))
	u.parts[number] = part{content, tag}
	w.Header().Set("ETag", tag)
}

// The content that a list of parts makes, or nothing and an answer that says why not.
func (u *upload) whole(w http.ResponseWriter, r *http.Request) []byte {
	var list struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(r.Body).Decode(&list); err != nil || len(list.Part) == 0 {
		refuse(w, http.StatusBadRequest, "MalformedCompleteMultipartUploadRequest", "The XML was not well-formed.")
		return nil
	}
	var content bytes.Buffer
	for index, named := range list.Part {
		part, found := u.parts[named.PartNumber]
		switch {
		case !found || part.tag != named.ETag:
			refuse(w, http.StatusBadRequest, "InvalidPart", "One or more of the specified parts could not be found.")
			return nil
		case index > 0 && named.PartNumber <= list.Part[index-1].PartNumber:
			refuse(w, http.StatusBadRequest, "InvalidPartOrder", "The list of parts was not in ascending order.")
			return nil
		case index < len(list.Part)-1 && len(part.content) < least:
			refuse(w, http.StatusBadRequest, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size.")
			return nil
		}
		content.Write(part.content)
	}
	return content.Bytes()
}

// Says which uploads have begun.
func (f *front) list(w http.ResponseWriter, bucket string) {
	f.writing.Lock()
	defer f.writing.Unlock()
	type entry struct{ Key, UploadId string }
	var found []entry
	for id, upload := range f.uploads {
		if upload.bucket == bucket {
			found = append(found, entry{upload.name, id})
		}
	}
	answer(w, struct {
		XMLName xml.Name `xml:"ListMultipartUploadsResult"`
		Upload  []entry
	}{Upload: found})
}

func answer(w http.ResponseWriter, result any) {
	text, err := xml.Marshal(result)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.Write(append([]byte(xml.Header), text...))
}
