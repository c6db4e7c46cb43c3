package spool_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/spool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

func request(container string) spool.Request {
	return spool.Request{
		Attachment: spool.Attachment{Network: "pods", ContainerID: container, Ifname: "eth0"},
		Pod:        &spool.Pod{Namespace: "default", Name: "web-0", UID: "u1"},
	}
}

// folder is a spool that does not exist yet, beside a socket whose folder does not either.
func folder(t *testing.T) string {
	return spool.Dir(filepath.Join(t.TempDir(), "clearway", "agent.sock"))
}

func write(t *testing.T, dir string, requests ...spool.Request) {
	t.Helper()
	for _, request := range requests {
		if err := spool.Write(dir, request); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := folder(t)
	write(t, dir, request("a"), request("b"), request("a"))
	entries, err := spool.Read(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v; want a and b once each", len(entries), err)
	}
	for _, entry := range entries {
		if !reflect.DeepEqual(entry.Request, request(entry.Request.Attachment.ContainerID)) {
			t.Errorf("read %v", entry.Request)
		}
		if err := errors.Join(spool.Remove(entry), spool.Remove(entry)); err != nil {
			t.Error(err)
		}
	}
	if entries, err := spool.Read(dir); len(entries) != 0 || err != nil {
		t.Errorf("after Remove: %v, %v", entries, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

// TestFilesAreProtobufsJSON: a file is a DelRequest in protobuf's JSON mapping, in both directions.
func TestFilesAreProtobufsJSON(t *testing.T) {
	bare := request("b\u2028<&>")
	bare.Pod = nil
	for _, written := range []spool.Request{request("a"), bare, {Attachment: spool.Attachment{ContainerID: "c"}, Pod: &spool.Pod{}}} {
		message := &clearwayv1.DelRequest{Attachment: &clearwayv1.Attachment{
			Network: written.Attachment.Network, ContainerId: written.Attachment.ContainerID, Ifname: written.Attachment.Ifname,
		}}
		if pod := written.Pod; pod != nil {
			message.Pod = &clearwayv1.Pod{Namespace: pod.Namespace, Name: pod.Name, Uid: pod.UID}
		}
		dir := folder(t)
		write(t, dir, written)
		files, _ := os.ReadDir(dir)
		path := filepath.Join(dir, files[0].Name())
		content, _ := os.ReadFile(path)
		read := &clearwayv1.DelRequest{}
		if err := protojson.Unmarshal(content, read); err != nil || !proto.Equal(read, message) {
			t.Errorf("%s is %v for protobuf, %v; want %v", content, read, err, message)
		}
		content, _ = protojson.Marshal(message)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if entry, _, err := spool.Find(dir, written.Attachment); err != nil || !reflect.DeepEqual(entry.Request, written) {
			t.Errorf("%s is read as %+v, %v; want %+v", content, entry.Request, err, written)
		}
	}
}

// TestNoUTF8: JSON would have another name in its place.
func TestNoUTF8(t *testing.T) {
	if err := spool.Write(folder(t), request("a\xff")); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("got %v", err)
	}
}

func TestMissingFolderIsEmpty(t *testing.T) {
	if entries, err := spool.Read(folder(t)); len(entries) != 0 || err != nil {
		t.Errorf("%v, %v", entries, err)
	}
	if _, found, err := spool.Find(folder(t), request("a").Attachment); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestFindIsByAttachment(t *testing.T) {
	dir := folder(t)
	write(t, dir, request("a"))
	if _, found, err := spool.Find(dir, request("b").Attachment); found || err != nil {
		t.Errorf("b: %v, %v", found, err)
	}
	entry, found, err := spool.Find(dir, request("a").Attachment)
	if !found || err != nil || !reflect.DeepEqual(entry.Request, request("a")) {
		t.Errorf("a: %v, %v, %v", entry, found, err)
	}
}

func TestRemoveLeavesWhatIsNewer(t *testing.T) {
	dir := folder(t)
	write(t, dir, request("a"))
	entries, _ := spool.Read(dir)
	write(t, dir, request("a"))
	if err := spool.Remove(entries[0]); err != nil {
		t.Fatal(err)
	}
	if again, _ := spool.Read(dir); len(again) != 1 {
		t.Error("the newer request is gone")
	}
}

func TestOnlyTheOwnerMayRead(t *testing.T) {
	dir := folder(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, request("a"))
	info, _ := os.Stat(dir)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v", info.Mode())
	}
	files, _ := os.ReadDir(dir)
	if info, _ := files[0].Info(); info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v", info.Mode())
	}
}

func TestBounds(t *testing.T) {
	dir := folder(t)
	write(t, dir, request("a"))
	for i := range spool.MaxEntries - 1 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := spool.Write(dir, request("b")); !errors.Is(err, spool.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := spool.Write(dir, request("a")); err != nil {
		t.Errorf("a repeated one needs no room: %v", err)
	}
	if err := spool.Write(folder(t), request(strings.Repeat("x", spool.MaxBytes))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file too large: %v", err)
	}
}

func TestBadFilesAreToldAndStay(t *testing.T) {
	dir := folder(t)
	write(t, dir, request("a"))
	entries, _ := os.ReadDir(dir)
	content, _ := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	for name, text := range map[string]string{
		"0.json": "{", "1.json": "", "2.json": "{}", "3.json": string(content), "4.json": strings.Repeat(" ", spool.MaxBytes+1), "notes.txt": "mine",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := spool.Read(dir)
	if len(got) != 1 || err == nil {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for _, name := range []string{"0.json", "1.json", "2.json", "3.json", "4.json"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 7 {
		t.Errorf("%d files are left of 7", len(files))
	}
}

func TestUnfinishedFilesGoWhenTheirWriterIsDead(t *testing.T) {
	dir := folder(t)
	write(t, dir, request("a"))
	for name, age := range map[string]time.Duration{".1.tmp": time.Hour, ".2.tmp": 0} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Chtimes(path, time.Time{}, time.Now().Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := spool.Read(dir); len(entries) != 1 || err != nil {
		t.Fatalf("%v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".1.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the dead writer's file is still there")
	}
	if _, err := os.Stat(filepath.Join(dir, ".2.tmp")); err != nil {
		t.Error("the living writer's file is gone")
	}
}

func TestWritersAndReaderAtOnce(t *testing.T) {
	dir := folder(t)
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for j := range 50 {
				if err := spool.Write(dir, request(fmt.Sprint(i, "-", j%5))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		entries, err := spool.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if err := spool.Remove(entry); err != nil {
				t.Fatal(err)
			}
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"attachment":{"containerID":"a"}}`))
	f.Add([]byte(`{"attachment":{"containerID":"a","later":1},"pod":{}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if entries, err := spool.Read(dir); len(entries) != 0 || err == nil {
			t.Fatalf("%q under a wrong name was read as %v", content, entries)
		}
	})
}
