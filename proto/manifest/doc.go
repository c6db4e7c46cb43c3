// Package manifest is the text form of Clearway's resources: it reads YAML and JSON files into resources, strictly and
// with every fault named by file, line and column, and writes resources as YAML and JSON in one stable form.
//
// # Reading
//
// A file is a stream of YAML documents (JSON is YAML too). Each is one resource, or a list of them under "items", as
// "get -o yaml" prints them. The schema is the protobuf one, so there is nothing here to keep up to date:
//
//   - Field names are those of the documentation (lowerCamelCase). An unknown or repeated one is a fault.
//   - Text is text: a number or true/false where text is wanted is a fault that says to quote it. Whole numbers may be
//     given in quotes where the field is 64 bits wide, as protobuf's JSON does.
//   - Enumerations are written as one word ("Owned"); protobuf's name (BLOCK_STATE_OWNED) is taken too.
//   - A null is as if the field were not there. Anchors, aliases and merge keys work, within the bounds below.
//   - What the server sets is dropped, so that "get -o yaml" can be edited and applied: status as a whole, and
//     metadata's uid, generation, creationTimestamp and source. metadata.resourceVersion is kept: an apply with it is refused
//     when the resource has changed since it was read. Take it out to apply regardless.
//   - Kinds that only Clearway writes are refused.
//
// # Writing
//
// Fields stand in the schema's order, apiVersion first. Whole numbers are numbers whatever their width (protobuf's JSON
// has 64-bit ones as strings; no number here needs more than the 53 bits that every JSON reader has), times are RFC
// 3339 in UTC, enumerations one word. A field with no value is left out, apart from the numbers and booleans of a
// status: there a zero is an answer. spec and status are always there, if only as {}. What is written can be read
// again, and gives the same resource but for what reading drops.
package manifest
