package clearwayv1

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// APIVersion is what every resource's apiVersion says.
const APIVersion = "clearway.io/v1"

// MaxApply is how many resources one Apply takes. It applies all or none, so it is one transaction of etcd, of at most
// 128 operations; some of them are the server's own.
const MaxApply = 100

// Object is what all resources have in common.
type Object interface {
	proto.Message
	GetApiVersion() string
	GetKind() string
	GetMetadata() *ObjectMeta
}

// oneof is Resource's one field group; its members' message names are the kinds. A function, because descriptors do
// not exist yet while package variables are initialised.
func oneof() protoreflect.OneofDescriptor {
	return (*Resource)(nil).ProtoReflect().Descriptor().Oneofs().ByName("resource")
}

// Kinds lists every kind, in the order of Resource's fields.
func Kinds() []string {
	var kinds []string
	for i := range oneof().Fields().Len() {
		kinds = append(kinds, string(oneof().Fields().Get(i).Message().Name()))
	}
	return kinds
}

// Writable tells whether a kind may be applied; the others are read only.
func Writable(kind string) bool {
	return slices.Contains([]string{
		"IPPool", "IPReservation", "IPQuota", "IPAMConfiguration", "BGPConfiguration", "BGPPeer", "BGPFilter", "Node",
	}, kind)
}

// New returns an empty resource of a kind, with apiVersion, kind and metadata set. The kind is matched without regard
// to case, in singular or plural. An unknown one is an error that lists those there are.
func New(kind string) (Object, error) {
	name := strings.ToLower(kind)
	for i := range oneof().Fields().Len() {
		message := oneof().Fields().Get(i).Message()
		singular := strings.ToLower(string(message.Name()))
		if name != singular && name != singular+"s" {
			continue
		}
		object := newMessage(message)
		fields := message.Fields()
		object.Set(fields.ByName("api_version"), protoreflect.ValueOfString(APIVersion))
		object.Set(fields.ByName("kind"), protoreflect.ValueOfString(string(message.Name())))
		object.Mutable(fields.ByName("metadata"))
		return object.Interface().(Object), nil
	}
	return nil, fmt.Errorf("kind %q is unknown; the kinds are %s", kind, strings.Join(Kinds(), ", "))
}

func newMessage(descriptor protoreflect.MessageDescriptor) protoreflect.Message {
	resource := (&Resource{}).ProtoReflect()
	for i := range oneof().Fields().Len() {
		if field := oneof().Fields().Get(i); field.Message() == descriptor {
			return resource.NewField(field).Message()
		}
	}
	panic(fmt.Sprintf("%s is no resource", descriptor.FullName()))
}

// Object returns the resource inside, or nil where there is none.
func (r *Resource) Object() Object {
	field := r.ProtoReflect().WhichOneof(oneof())
	if field == nil {
		return nil
	}
	return r.ProtoReflect().Get(field).Message().Interface().(Object)
}

// Wrap puts an object into a Resource. It panics when the object is none of Resource's kinds.
func Wrap(object Object) *Resource {
	resource := &Resource{}
	for i := range oneof().Fields().Len() {
		field := oneof().Fields().Get(i)
		if field.Message() == object.ProtoReflect().Descriptor() {
			resource.ProtoReflect().Set(field, protoreflect.ValueOfMessage(object.ProtoReflect()))
			return resource
		}
	}
	panic(fmt.Sprintf("%T is no resource", object))
}

// KeyOf writes "Kind/name", as messages name a resource.
func KeyOf(object Object) string {
	return string(object.ProtoReflect().Descriptor().Name()) + "/" + object.GetMetadata().GetName()
}

// PrefixName writes a CIDR or address as a resource's name: "10.244.1.0/26" becomes "10-244-1-0-26".
func PrefixName(text string) string {
	return strings.NewReplacer(".", "-", ":", "-", "/", "-", "%", "-").Replace(text)
}
