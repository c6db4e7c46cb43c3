package manifest

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// EnumName writes an enumeration's value as one word: BLOCK_STATE_OWNED is "Owned". The unspecified value is "".
func EnumName(value protoreflect.Enum) string {
	return EnumText(value.Descriptor(), value.Number())
}

// EnumText is EnumName of a value that is known by its number.
func EnumText(descriptor protoreflect.EnumDescriptor, number protoreflect.EnumNumber) string {
	value := descriptor.Values().ByNumber(number)
	if number == 0 || value == nil {
		return ""
	}
	return word(descriptor, value)
}

// word takes the enumeration's own name off the value's and writes the rest in CamelCase.
func word(descriptor protoreflect.EnumDescriptor, value protoreflect.EnumValueDescriptor) string {
	parts := strings.Split(string(value.Name()), "_")
	prefix := strings.ToUpper(string(descriptor.Name()))
	for taken := ""; taken != prefix && len(parts) > 1; parts = parts[1:] {
		taken += parts[0]
		if !strings.HasPrefix(prefix, taken) {
			break
		}
	}
	var name strings.Builder
	for _, part := range parts {
		name.WriteString(part[:1] + strings.ToLower(part[1:]))
	}
	return name.String()
}

// enumNames are the words of all values but the unspecified one.
func enumNames(descriptor protoreflect.EnumDescriptor) []string {
	var names []string
	for i := range descriptor.Values().Len() {
		if value := descriptor.Values().Get(i); value.Number() != 0 {
			names = append(names, word(descriptor, value))
		}
	}
	return names
}

// enumNumber finds a value by its word or by protobuf's name.
func enumNumber(descriptor protoreflect.EnumDescriptor, name string) (protoreflect.EnumNumber, bool) {
	for i := range descriptor.Values().Len() {
		value := descriptor.Values().Get(i)
		if string(value.Name()) == name || value.Number() != 0 && word(descriptor, value) == name {
			return value.Number(), true
		}
	}
	return 0, false
}
