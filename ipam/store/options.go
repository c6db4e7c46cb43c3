package store

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"time"
)

// Options say which etcd, and how. Exactly one of DataDir and Endpoints is set.
type Options struct {
	// DataDir is a folder for an embedded etcd with one member. It is made, for its owner only.
	DataDir string
	// ListenPeer and ListenClient are the URLs that the embedded member is reached at, so that others can be added to it
	// and etcdctl can call it; both or neither. Empty: it listens nowhere.
	ListenPeer, ListenClient string
	// MemberCert, MemberKey and MemberCA are PEM files for the https ones among them: the member's certificate, and the
	// authorities of who may connect.
	MemberCert, MemberKey, MemberCA string
	// Endpoints of an etcd cluster, as URLs.
	Endpoints []string
	// TLS towards Endpoints; nil: none.
	TLS *tls.Config
	// Prefix of all keys. Default /clearway/v1.
	Prefix string
	// Instance tells this process's place from others that use the same store: what a process that runs here later
	// has too, and none that runs elsewhere. A leader's key that an earlier process left is given up at once by it.
	// Empty: none. Not used with DataDir, where the folder is the place.
	Instance string
	// Logger must be set.
	Logger *slog.Logger

	// OfficeTTL is how long a silent leader stays in office. Default 5 s.
	OfficeTTL time.Duration
	// CallTimeout bounds each call of etcd. Default 5 s.
	CallTimeout time.Duration
	// QuotaBytes is the embedded etcd's greatest size. Default 4 GiB.
	QuotaBytes int64
}

func (o *Options) complete() error {
	if (o.DataDir == "") == (len(o.Endpoints) == 0) {
		return errors.New("exactly one of a data folder and etcd endpoints must be given")
	}
	if (o.ListenPeer == "") != (o.ListenClient == "") {
		return errors.New("the embedded etcd listens for peers and for clients, or for neither")
	}
	if o.Logger == nil {
		return errors.New("no logger")
	}
	if o.Prefix == "" {
		o.Prefix = "/clearway/v1"
	}
	o.Prefix = strings.TrimRight(o.Prefix, "/") + "/"
	if o.OfficeTTL == 0 {
		o.OfficeTTL = 5 * time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 5 * time.Second
	}
	if o.QuotaBytes == 0 {
		o.QuotaBytes = 4 << 30 // a million blocks and their history between compactions are well below 1 GiB
	}
	return nil
}
