package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxTokenBytes bounds a token's file; service account tokens have about 1,200.
	maxTokenBytes = 8 << 10
	// tokenEvery is how long a token that was read is used: the kubelet puts a new one in its place long before it ends.
	tokenEvery = 30 * time.Second
)

// tokenFile adds the token of a file to each call, as gRPC's credentials.PerRPCCredentials. Safe for concurrent use.
type tokenFile struct {
	name string

	mu    sync.Mutex // guards all below
	token string
	until time.Time
}

// GetRequestMetadata is gRPC's.
func (f *tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := f.current(time.Now())
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity is gRPC's: a token is for nobody but the server that proved who it is.
func (f *tokenFile) RequireTransportSecurity() bool { return true }

// current is the token. When the file cannot be read the last one goes on being used.
func (f *tokenFile) current(now time.Time) (string, error) {
	f.mu.Lock()
	token, until := f.token, f.until
	f.mu.Unlock()
	if now.Before(until) {
		return token, nil
	}
	// Read without the lock: two may read at once.
	fresh, err := readToken(f.name)
	if err != nil {
		if token != "" {
			return token, nil
		}
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token, f.until = fresh, now.Add(tokenEvery)
	return fresh, nil
}

func readToken(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTokenBytes+1))
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case token == "":
		err = errors.New("it is empty")
	case len(text) > maxTokenBytes:
		err = fmt.Errorf("it has more than %d bytes", maxTokenBytes)
	case strings.ContainsAny(token, " \t\r\n"):
		err = errors.New("a token is one word")
	}
	if err != nil {
		return "", fmt.Errorf("--token-file %s: %w", name, err)
	}
	return token, nil
}
