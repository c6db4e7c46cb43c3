package record

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Key is a record's key below the store's prefix.
type Key string

// Rooms: the first part of a key.
const (
	Config      = "config"
	Blocks      = "blocks"
	Nodes       = "nodes"
	Gone        = "gone"
	Assignments = "assignments"
	Mirrors     = "mirror"
	Pools       = "pools"
	Requests    = "requests"
	Events      = "events"
	History     = "history"
	Kubernetes  = "kubernetes"
	Allowances  = "quotas"
)

// Keys that stand alone.
const (
	Incarnation Key = "incarnation"
	Life        Key = "life"
	Leader      Key = "leader"
	// HistorySince tells from when on the history is whole; absent: none is kept.
	HistorySince Key = "history-since"
)

// Loaded lists the rooms that are kept in memory: all but what expires, and the history.
func Loaded() []Key {
	return []Key{
		Incarnation, Life, HistorySince, Config + "/", Nodes + "/", Gone + "/", Mirrors + "/", Pools + "/", Blocks + "/", Assignments + "/",
		Kubernetes + "/",
		Allowances + "/",
	}
}

// ConfigKey is the key of an applied resource.
func ConfigKey(kind, name string) Key { return Key(Config + "/" + kind + "/" + name) }

// Kinds of what is kept of Kubernetes.
const (
	KubernetesNodes      = "nodes"
	KubernetesNamespaces = "namespaces"
	KubernetesServices   = "services" // by NAMESPACE/NAME
)

// KubernetesKey is the key of what is kept of an object of Kubernetes.
func KubernetesKey(kind, name string) Key { return Key(Kubernetes + "/" + kind + "/" + name) }

// BlockKey is the key of a block.
func BlockKey(block netip.Prefix) Key {
	return Key(fmt.Sprintf("%s/%s/%s-%d", Blocks, family(block.Addr()), hexOf(block.Addr()), block.Bits()))
}

// NodeKey is the key of a node's registration.
func NodeKey(name string) Key { return Key(Nodes + "/" + name) }

// GoneKey is the key of what is kept of a deleted node with orphaned blocks.
func GoneKey(name string) Key { return Key(Gone + "/" + name) }

// AssignmentKey is the key of the copy of one assignment.
func AssignmentKey(node string, address netip.Addr) Key {
	return AssignmentsOf(node) + Key(hexOf(address))
}

// AssignmentsOf is what all of a node's assignment keys begin with.
func AssignmentsOf(node string) Key { return Key(Assignments + "/" + node + "/") }

// MirrorKey is the key that tells how far a node's journal is copied.
func MirrorKey(node string) Key { return Key(Mirrors + "/" + node) }

// AllowanceKey is the key of what a node may give of a quota.
func AllowanceKey(node, quota string) Key { return AllowancesOf(node) + Key(quota) }

// AllowancesOf is what all of a node's allowance keys begin with.
func AllowancesOf(node string) Key { return Key(Allowances + "/" + node + "/") }

// SequenceKey is the key of a pool's claim counter.
func SequenceKey(pool string) Key { return Key(Pools + "/" + pool + "/sequence") }

// RequestKey is the key of a remembered answer.
func RequestKey(request string) Key { return Key(Requests + "/" + url.PathEscape(request)) }

// EventKey is the key of an event: sorted by time, told apart by n.
func EventKey(at time.Time, n uint32) Key {
	return Key(fmt.Sprintf("%s/%020d-%08x", Events, at.UnixNano(), n))
}

// Room is the key's first part.
func (k Key) Room() string {
	room, _, _ := strings.Cut(string(k), "/")
	return room
}

// Rest is what follows the room.
func (k Key) Rest() string {
	_, rest, _ := strings.Cut(string(k), "/")
	return rest
}

// KindName takes a Config or a Kubernetes key apart.
func (k Key) KindName() (kind, name string, ok bool) { return strings.Cut(k.Rest(), "/") }

// Block reads the prefix out of a Blocks key.
func (k Key) Block() (netip.Prefix, error) {
	_, text, _ := strings.Cut(k.Rest(), "/")
	digits, bits, _ := strings.Cut(text, "-")
	address, err := parseHex(digits)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("key %q: %w", k, err)
	}
	n, err := strconv.Atoi(bits)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("key %q: prefix length: %w", k, err)
	}
	prefix := netip.PrefixFrom(address, n)
	if !prefix.IsValid() || prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("key %q names no prefix", k)
	}
	return prefix, nil
}

// Assignment reads node and address out of an Assignments key.
func (k Key) Assignment() (node string, address netip.Addr, err error) {
	node, digits, _ := strings.Cut(k.Rest(), "/")
	address, err = parseHex(digits)
	if err != nil {
		err = fmt.Errorf("key %q: %w", k, err)
	}
	return node, address, err
}

// Pool reads the pool's name out of a Pools key.
func (k Key) Pool() string {
	name, _, _ := strings.Cut(k.Rest(), "/")
	return name
}

func family(address netip.Addr) string {
	if address.Is4() {
		return "4"
	}
	return "6"
}

func hexOf(address netip.Addr) string { return hex.EncodeToString(address.AsSlice()) }

func parseHex(digits string) (netip.Addr, error) {
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address: %w", err)
	}
	address, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address %q has %d bytes, not 4 or 16", digits, len(raw))
	}
	return address, nil
}
