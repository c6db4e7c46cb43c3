package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/clearway/clearway/ipam/node/journal"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// The kinds of records. The numbers are on disk: never give one a new meaning. Payloads are JSON, so that fields can be
// added, and so that a person can read a journal with strings(1).
const (
	typeBoot      uint8 = 1
	typeBlock     uint8 = 2
	typeBlockGone uint8 = 3
	typeReturn    uint8 = 4
	typeClaim     uint8 = 5
	typeAssign    uint8 = 6
	typeRelease   uint8 = 7
	typeRest      uint8 = 8
	typeCall      uint8 = 9
	typeSplit     uint8 = 10
	typeStore     uint8 = 11
	typeAllowance uint8 = 12
	typeSettled   uint8 = 13
)

// record is what the book applies; each is one change that holds wholly or not at all.
type record interface{ recordType() uint8 }

// bootRecord: a new boot began. All assignments of before are gone, and no block is sealed any more.
type bootRecord struct {
	BootID string    `json:"bootID"`
	Time   time.Time `json:"time"`
	// Unsettled: whether the blocks of before are still the node's is not known before a settledRecord.
	Unsettled bool `json:"unsettled,omitempty"`
}

// settledRecord: in this boot the node goes by the blocks it has, also after a restart: ipamd has spoken, or was silent
// for long.
type settledRecord struct{}

// blockRecord: the node owns this block, with these properties from now on. It closes the claim of its request key.
type blockRecord struct {
	CIDR       netip.Prefix `json:"cidr"`
	Pool       string       `json:"pool"`
	Generation int64        `json:"generation"`
	NodeUID    string       `json:"nodeUID,omitempty"`
	RequestKey string       `json:"requestKey,omitempty"`
	Claimed    time.Time    `json:"claimed,omitzero"`
	// Sealed: no new address comes from it before each of its addresses is accounted for, or a new boot.
	Sealed bool `json:"sealed,omitempty"`
	// Withdrawing: it was called back out of Parent, and gives no address. Until it is given back Parent is advertised in
	// its stead, if it is known.
	Withdrawing bool         `json:"withdrawing,omitempty"`
	Parent      netip.Prefix `json:"parent,omitzero"`
	// RestUntil: until then its addresses rest, because of the owner before.
	RestUntil time.Time `json:"restUntil,omitzero"`
	// Floating is whose it is, of a Floating pool: the block is one address.
	Floating holder `json:"floating,omitzero"`
}

// blockGoneRecord: the node no longer owns the block. What is assigned in it is stranded.
type blockGoneRecord struct {
	CIDR       netip.Prefix `json:"cidr"`
	Generation int64        `json:"generation"`
}

// returnRecord: the node means to give the block back. It is no longer advertised and gives no address.
type returnRecord struct {
	CIDR       netip.Prefix `json:"cidr"`
	RequestKey string       `json:"requestKey"`
	RestUntil  time.Time    `json:"restUntil,omitzero"`
}

// callRecord: this part of the block is called back under an id, and gives no address; without an id it is not any more.
type callRecord struct {
	CIDR netip.Prefix `json:"cidr"`
	Part netip.Prefix `json:"part"`
	ID   string       `json:"id,omitempty"`
}

// splitRecord: these blocks are in the place of one that the node had. What is assigned beside them is stranded.
type splitRecord struct {
	CIDR  netip.Prefix  `json:"cidr"`
	Parts []blockRecord `json:"parts"`
}

// claimRecord: a claim from this pool is about to be sent under this key, or, without a key, is closed.
type claimRecord struct {
	Pool       string `json:"pool"`
	RequestKey string `json:"requestKey,omitempty"`
}

// assignRecord: the attachment holds these addresses.
type assignRecord struct {
	key
	Pod   pod       `json:"pod,omitzero"`
	Addrs []held    `json:"addrs"`
	Time  time.Time `json:"time"`
	// Number is the generation: that of the record that made it. 0: this record's own.
	Number uint64 `json:"number,omitempty"`
	// Netns is where the attachment lives, as far as it could be seen.
	Netns proof.Namespace `json:"netns,omitzero"`
	// Owner is who keeps the addresses over the life of the Pod, where it is not the Pod's own name.
	Owner string `json:"owner,omitempty"`
	// Quotas are those that took the Pod when it got its addresses.
	Quotas []string `json:"quotas,omitempty"`
}

// releaseRecord: the attachment no longer holds what the record of this number gave it.
type releaseRecord struct {
	key
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Until  time.Time `json:"until"`
}

// restRecord stands in snapshots: addresses that rest.
type restRecord struct {
	Rests []restingAddress `json:"rests"`
}

type restingAddress struct {
	Addr  netip.Addr `json:"a"`
	Until time.Time  `json:"t"`
	// Owner may have it before.
	Owner string `json:"o,omitempty"`
}

// allowanceRecord: the node may give so many addresses of a quota. A lower one is here before ipamd hears of it.
type allowanceRecord struct {
	Quota      string `json:"quota"`
	UID        string `json:"uid"`
	Amount     int64  `json:"amount"`
	Generation int64  `json:"generation"`
}

// storeRecord: the node's blocks are as the store of this incarnation has them.
type storeRecord struct {
	Incarnation string `json:"incarnation"`
}

// key names an attachment.
type key struct {
	Network   string `json:"network,omitempty"`
	Container string `json:"container"`
	Ifname    string `json:"ifname"`
}

func (k key) String() string { return k.Network + "/" + k.Container + "/" + k.Ifname }

func (k key) proto() *clearwayv1.Attachment {
	return &clearwayv1.Attachment{Network: k.Network, ContainerId: k.Container, Ifname: k.Ifname}
}

func keyOf(a *clearwayv1.Attachment) key {
	return key{Network: a.GetNetwork(), Container: a.GetContainerId(), Ifname: a.GetIfname()}
}

type pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

func podOf(p *clearwayv1.Pod) pod {
	return pod{Namespace: p.GetNamespace(), Name: p.GetName(), UID: p.GetUid()}
}

func (p pod) proto() *clearwayv1.Pod {
	return &clearwayv1.Pod{Namespace: p.Namespace, Name: p.Name, Uid: p.UID}
}

// held is one address of an attachment, with all that its answer had, so that a repeated ADD gets the same one whatever
// became of the pool.
type held struct {
	Addr    netip.Addr   `json:"addr"`
	Block   netip.Prefix `json:"block"`
	Pool    string       `json:"pool"`
	Bits    int          `json:"bits,omitempty"` // the pool's prefix length; 0: not known here (adopted from the mirror)
	Gateway netip.Addr   `json:"gw,omitzero"`

	rested time.Time // until when it should have rested when it was reserved; zero: it was ready
	owner  string    // it rested for this owner, who has it again; empty: for nobody, or it was cut short
	quotas []string  // those that take the Pod, while it is reserved
}

func (bootRecord) recordType() uint8      { return typeBoot }
func (settledRecord) recordType() uint8   { return typeSettled }
func (blockRecord) recordType() uint8     { return typeBlock }
func (blockGoneRecord) recordType() uint8 { return typeBlockGone }
func (returnRecord) recordType() uint8    { return typeReturn }
func (claimRecord) recordType() uint8     { return typeClaim }
func (assignRecord) recordType() uint8    { return typeAssign }
func (releaseRecord) recordType() uint8   { return typeRelease }
func (restRecord) recordType() uint8      { return typeRest }
func (callRecord) recordType() uint8      { return typeCall }
func (splitRecord) recordType() uint8     { return typeSplit }
func (storeRecord) recordType() uint8     { return typeStore }
func (allowanceRecord) recordType() uint8 { return typeAllowance }

func encode(r record) (journal.Entry, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return journal.Entry{}, fmt.Errorf("encode journal record: %w", err)
	}
	return journal.Entry{Type: r.recordType(), Payload: payload, Value: r}, nil
}

func decode(recordType uint8, payload []byte) (record, error) {
	switch recordType {
	case typeBoot:
		return decodeAs[bootRecord](payload)
	case typeSettled:
		return decodeAs[settledRecord](payload)
	case typeBlock:
		return decodeAs[blockRecord](payload)
	case typeBlockGone:
		return decodeAs[blockGoneRecord](payload)
	case typeReturn:
		return decodeAs[returnRecord](payload)
	case typeClaim:
		return decodeAs[claimRecord](payload)
	case typeAssign:
		return decodeAs[assignRecord](payload)
	case typeRelease:
		return decodeAs[releaseRecord](payload)
	case typeRest:
		return decodeAs[restRecord](payload)
	case typeCall:
		return decodeAs[callRecord](payload)
	case typeSplit:
		return decodeAs[splitRecord](payload)
	case typeStore:
		return decodeAs[storeRecord](payload)
	case typeAllowance:
		return decodeAs[allowanceRecord](payload)
	}
	return nil, fmt.Errorf("journal record of type %d: this program does not know it; a newer one wrote it", recordType)
}

func decodeAs[R record](payload []byte) (record, error) {
	var r R
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("journal record of type %d: %w", r.recordType(), err)
	}
	return r, nil
}
