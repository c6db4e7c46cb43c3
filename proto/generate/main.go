// Command generate compiles the .proto files under proto/ and writes their Go code beside them, and Kubernetes'
// definitions of the resources into deploy/kubernetes/crds.
//
// It is protoc without protoc: the compiler is protocompile, a Go module, so that go.mod alone pins every generator
// and the output is the same on every machine. The plugins are go.mod's tools, run by "go tool".
package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/clearway/clearway/proto/schema"
)

const root = "proto"

var plugins = []string{"protoc-gen-go", "protoc-gen-go-grpc"}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	names, err := protoFiles()
	if err != nil {
		return err
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		// Comments in the .proto become docstrings in Go.
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	for _, file := range files {
		request.ProtoFile = appendWithImports(request.ProtoFile, file, seen)
	}
	for _, plugin := range plugins {
		if err := generate(ctx, plugin, request); err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
	}
	return definitions(files)
}

// crds is where Kubernetes' definitions of the resources are.
const crds = "deploy/kubernetes/crds"

// definitions writes a CustomResourceDefinition of each kind that has one, with a list of them, and nothing
// else into their folder.
func definitions(files linker.Files) error {
	kinds, err := schema.Kinds()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(crds); err != nil {
		return err
	}
	if err := os.MkdirAll(crds, 0o755); err != nil {
		return err
	}
	var written []string
	for _, kind := range kinds {
		described, err := files.AsResolver().FindDescriptorByName(protoreflect.FullName("clearway.v1." + kind))
		if err != nil {
			return fmt.Errorf("kind %s: %w", kind, err)
		}
		resource, ok := described.(protoreflect.MessageDescriptor)
		if !ok {
			return fmt.Errorf("kind %s is no message", kind)
		}
		name, text, err := schema.CRD(resource)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(crds, name+".yaml"), text, 0o644); err != nil {
			return err
		}
		written = append(written, name+".yaml")
	}
	return os.WriteFile(filepath.Join(crds, "kustomization.yaml"), kustomization(written), 0o644)
}

// kustomization lists the definitions for "kubectl apply -k".
func kustomization(files []string) []byte {
	slices.Sort(files)
	return []byte("# The definitions of Clearway's resources. \"make generate\" writes this list and them.\n" +
		"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - " + strings.Join(files, "\n  - ") + "\n")
}

func protoFiles() ([]string, error) {
	var names []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".proto") {
			name, _ := filepath.Rel(root, path) // cannot fail: path is below root
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("no .proto file under %s: run it from the repository's root", root)
	}
	return names, err
}

// appendWithImports appends file after everything it imports, as plugins expect.
func appendWithImports(list []*descriptorpb.FileDescriptorProto, file protoreflect.FileDescriptor, seen map[string]bool) []*descriptorpb.FileDescriptorProto {
	if seen[file.Path()] {
		return list
	}
	seen[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		list = appendWithImports(list, imports.Get(i).FileDescriptor, seen)
	}
	return append(list, protoutil.ProtoFromFileDescriptor(file))
}

func generate(ctx context.Context, plugin string, request *pluginpb.CodeGeneratorRequest) error {
	input, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(output, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", response.GetError())
	}
	for _, file := range response.File {
		if err := os.WriteFile(filepath.Join(root, file.GetName()), []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
