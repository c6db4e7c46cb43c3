package ipamtest

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Method is one RPC of the API, to be called with anything.
type Method struct {
	Name          string // as "/clearway.v1.NodeService/Register"
	Input, Output protoreflect.MessageType
	stream        grpc.StreamDesc
}

// Methods are those of the services that are declared in a file, in its order.
func Methods(file protoreflect.FileDescriptor) []Method {
	var all []Method
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		for j := range service.Methods().Len() {
			one := service.Methods().Get(j)
			all = append(all, Method{
				Name:  fmt.Sprintf("/%s/%s", service.FullName(), one.Name()),
				Input: typeOf(one.Input()), Output: typeOf(one.Output()),
				stream: grpc.StreamDesc{ServerStreams: one.IsStreamingServer(), ClientStreams: one.IsStreamingClient()},
			})
		}
	}
	return all
}

func typeOf(message protoreflect.MessageDescriptor) protoreflect.MessageType {
	found, err := protoregistry.GlobalTypes.FindMessageByName(message.FullName())
	if err != nil {
		panic(err) // generated code registers its own messages
	}
	return found
}

// Call sends one message and takes the first answer, if any; its error is the status.
func (m Method) Call(ctx context.Context, conn grpc.ClientConnInterface, input proto.Message) error {
	output := m.Output.New().Interface()
	if !m.stream.ServerStreams && !m.stream.ClientStreams {
		return conn.Invoke(ctx, m.Name, input, output)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &m.stream, m.Name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(input); err != nil {
		return stream.RecvMsg(output) // which has the status
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(output)
}

// Fill puts text and number into every field of a message, down to some depth, and one item into each list.
func Fill(into protoreflect.Message, text string, number int64, depth int) {
	fields := into.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case field.IsMap():
			into.Mutable(field).Map().Set(protoreflect.ValueOfString(text).MapKey(), protoreflect.ValueOfString(text))
		case field.IsList() && field.Message() != nil:
			if depth > 0 {
				Fill(into.Mutable(field).List().AppendMutable().Message(), text, number, depth-1)
			}
		case field.IsList():
			into.Mutable(field).List().Append(scalar(field, text, number))
		case field.Message() != nil:
			if depth > 0 {
				Fill(into.Mutable(field).Message(), text, number, depth-1)
			}
		default:
			into.Set(field, scalar(field, text, number))
		}
	}
}

func scalar(field protoreflect.FieldDescriptor, text string, number int64) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number != 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(number)))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(number))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number))
	}
	return protoreflect.ValueOfInt64(number)
}

// Seeds are texts and numbers that programs get wrong.
func Seeds() (texts []string, numbers []int64) {
	return []string{
		"", "n1", "pods", "10.244.0.0/26", "10.244.0.5", "::/0", "fd00::/200", "0.0.0.0/0", "10.244.0.1-10.244.0.0", "-1s",
		"999999999h", "../../etc", "a=b,", "\x00", "Block", "Node/n1", "clearway.io/v1",
	}, []int64{0, 1, -1, 33, 1<<31 - 1, -1 << 63}
}
