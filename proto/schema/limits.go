package schema

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Fault is a value that is larger than its field takes.
type Fault struct {
	Field   string // "spec.importFilters"
	Value   string // how large it is
	Message string
}

// Faults holds a message to the bounds of its lists, maps and texts; path is where it stands ("spec"). Whatever else there
// is to say of it is said by rules of their own.
func Faults(path string, of protoreflect.Message) []Fault {
	rules, err := book()
	if err != nil {
		panic(err) // the rules are part of the program, and every test reads them
	}
	var found []Fault
	rules.bounds(path, of, &found)
	return found
}

func (b *rulebook) bounds(path string, of protoreflect.Message, found *[]Fault) {
	own := b.Messages[string(of.Descriptor().Name())]
	of.Range(func(field protoreflect.FieldDescriptor, set protoreflect.Value) bool {
		var rules *value
		if own != nil {
			rules = own.Fields[field.JSONName()]
		}
		b.bound(path+"."+field.JSONName(), field, set, rules, found)
		return true
	})
}

func (b *rulebook) bound(path string, field protoreflect.FieldDescriptor, set protoreflect.Value, rules *value, found *[]Fault) {
	if rules == nil {
		rules = &value{}
	}
	switch {
	case field.IsMap():
		if over(path, set.Map().Len(), rules.MaxProperties, "entries", found) {
			return
		}
		set.Map().Range(func(key protoreflect.MapKey, entry protoreflect.Value) bool {
			b.boundOne(fmt.Sprintf("%s[%s]", path, key.String()), field.MapValue(), entry, rules.Items, found)
			return true
		})
	case field.IsList():
		if over(path, set.List().Len(), rules.MaxItems, "entries", found) {
			return
		}
		for i := range set.List().Len() {
			b.boundOne(fmt.Sprintf("%s[%d]", path, i), field, set.List().Get(i), rules.Items, found)
		}
	default:
		b.boundOne(path, field, set, rules, found)
	}
}

func (b *rulebook) boundOne(path string, field protoreflect.FieldDescriptor, set protoreflect.Value, rules *value, found *[]Fault) {
	switch {
	case field.Kind() == protoreflect.MessageKind:
		b.bounds(path, set.Message(), found)
	case field.Kind() == protoreflect.StringKind && rules != nil:
		most := rules.MaxLength
		if rules.Duration != nil {
			most = durationLength
		}
		over(path, utf8.RuneCountInString(set.String()), most, "characters", found)
	}
}

// over notes what is larger than the most; 0 is no bound.
func over(path string, size int, most int64, unit string, found *[]Fault) bool {
	if most == 0 || int64(size) <= most {
		return false
	}
	*found = append(*found, Fault{
		Field: path, Value: fmt.Sprintf("%d %s", size, unit), Message: fmt.Sprintf("must have at most %d %s", most, unit),
	})
	return true
}
