package plain

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

var errNotUTF8 = errors.New("a string is not UTF-8")

// encoder writes a message's fields.
type encoder struct {
	bytes []byte
	err   error
}

// text writes a string field. An empty one is left out, as proto3 does.
func (e *encoder) text(field int, value string) {
	if value != "" {
		e.element(field, value)
	}
}

// texts writes a list of strings.
func (e *encoder) texts(field int, values []string) {
	for _, value := range values {
		e.element(field, value)
	}
}

// element writes a string that is there even if it is empty.
func (e *encoder) element(field int, value string) {
	if !utf8.ValidString(value) {
		e.err = errNotUTF8
	}
	e.head(field, len(value))
	e.bytes = append(e.bytes, value...)
}

// message writes a message that is there even if it is empty.
func (e *encoder) message(field int, write func(*encoder)) {
	inner := encoder{}
	write(&inner)
	e.err = errors.Join(e.err, inner.err)
	e.head(field, len(inner.bytes))
	e.bytes = append(e.bytes, inner.bytes...)
}

// pairs writes a map of strings.
func (e *encoder) pairs(field int, values map[string]string) {
	for key, value := range values {
		e.message(field, func(e *encoder) {
			e.element(1, key)
			e.element(2, value)
		})
	}
}

// number writes an int64. 0 is left out, as proto3 does.
func (e *encoder) number(field int, value int64) {
	if value != 0 {
		e.bytes = binary.AppendUvarint(e.bytes, uint64(field)<<3|wireVarint)
		e.bytes = binary.AppendUvarint(e.bytes, uint64(value))
	}
}

func (e *encoder) head(field, size int) {
	e.bytes = binary.AppendUvarint(e.bytes, uint64(field)<<3|wireBytes)
	e.bytes = binary.AppendUvarint(e.bytes, uint64(size))
}

func (a Attachment) encode(e *encoder) {
	e.text(1, a.Network)
	e.text(2, a.ContainerID)
	e.text(3, a.Ifname)
}

func (p *Pod) encode(e *encoder) {
	e.text(1, p.Namespace)
	e.text(2, p.Name)
	e.text(3, p.UID)
}

// owner writes the attachment and its Pod, which requests have in the same fields.
func (e *encoder) owner(attachment Attachment, pod *Pod) {
	e.message(1, attachment.encode)
	if pod != nil {
		e.message(2, pod.encode)
	}
}

func (r *AddRequest) encode(e *encoder) {
	e.owner(r.Attachment, r.Pod)
	e.text(3, r.Netns)
	e.texts(4, r.Pools)
	e.texts(5, r.Addresses)
	e.pairs(6, r.Annotations)
	e.pairs(7, r.PodLabels)
	e.pairs(8, r.NamespaceLabels)
	e.pairs(9, r.NamespaceAnnotations)
	e.number(10, int64(r.Started))
}

func (r *DelRequest) encode(e *encoder) { e.owner(r.Attachment, r.Pod) }

func (r *CheckRequest) encode(e *encoder) {
	e.owner(r.Attachment, nil)
	e.texts(2, r.Addresses)
}

func (r *StatusRequest) encode(e *encoder) {
	e.text(1, r.Network)
	e.texts(2, r.Pools)
}

func (r *GCRequest) encode(e *encoder) {
	e.text(1, r.Network)
	for _, attachment := range r.ValidAttachments {
		e.message(2, attachment.encode)
	}
}
