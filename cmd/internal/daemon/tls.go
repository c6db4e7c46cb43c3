package daemon

import (
	"log/slog"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// TLS is what the flags say of a connection's security: mutual TLS, or, only when it is said in so many words, none.
type TLS struct {
	Cert, Key, CA string // files, PEM
	Insecure      bool
	// TokenFile is the file of a token that goes with each call, in place of our certificate; only clients have one.
	TokenFile string
	// AcceptTokens lets a server's clients come without a certificate: who serves judges their tokens.
	AcceptTokens bool
	// ServerName is the name the server's certificate must have; empty: the host of its address.
	ServerName string
}

// AddFlags defines --tls-cert, --tls-key, --tls-ca and --insecure.
func (t *TLS) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&t.Cert, "tls-cert", "", "PEM `FILE` of our certificate, with its chain (mutual TLS)")
	flags.StringVar(&t.Key, "tls-key", "", "PEM `FILE` of the certificate's private key")
	flags.StringVar(&t.CA, "tls-ca", "", "PEM `FILE` of the authorities that the other side's certificate must come from")
	flags.BoolVar(&t.Insecure, "insecure", false, "no TLS: anyone who reaches the address may read and change everything")
}

// AddClientFlags defines the same and --tls-server-name.
func (t *TLS) AddClientFlags(flags *pflag.FlagSet) {
	t.AddFlags(flags)
	flags.StringVar(&t.ServerName, "tls-server-name", "",
		"`NAME` that the server's certificate must have (default: the host of its address)")
}

// AddTokenFlag defines --token-file.
func (t *TLS) AddTokenFlag(flags *pflag.FlagSet) {
	flags.StringVar(&t.TokenFile, "token-file", "",
		"`FILE` of a token that proves who we are, in place of --tls-cert: in a cluster, a projected service account token")
}

// Validate refuses flags that say neither way, both, or a part of one. The files are not read.
func (t *TLS) Validate() error {
	var given, missing []string
	for _, file := range []struct{ flag, value string }{
		{"--tls-cert", t.Cert}, {"--tls-key", t.Key}, {"--tls-ca", t.CA},
	} {
		if file.value == "" {
			missing = append(missing, file.flag)
		} else {
			given = append(given, file.flag)
		}
	}
	if t.TokenFile != "" {
		return t.validateToken()
	}
	switch {
	case t.Insecure && len(given) > 0:
		return Usage("--insecure and %s exclude each other: give the three --tls files, or --insecure alone",
			strings.Join(given, ", "))
	case t.Insecure:
		return nil
	case len(given) == 0:
		return Usage("how to connect is not said: give --tls-cert, --tls-key and --tls-ca for mutual TLS, " +
			"or --insecure to go without")
	case len(missing) > 0:
		return Usage("mutual TLS also wants %s (or give --insecure alone to go without TLS)", strings.Join(missing, ", "))
	}
	return nil
}

func (t *TLS) validateToken() error {
	switch {
	case t.Insecure:
		return Usage("--insecure and --token-file exclude each other: a token is sent to a server that proved who it is (--tls-ca)")
	case t.Cert != "" || t.Key != "":
		return Usage("--token-file and --tls-cert with --tls-key exclude each other: each proves who we are")
	case t.CA == "":
		return Usage("--token-file also wants --tls-ca: a token is sent to a server that proved who it is")
	}
	return nil
}

// ServerCredentials are for a gRPC server: TLS 1.3, and each client must show a certificate of the
// authorities, or, where tokens are accepted, may show none.
func (t *TLS) ServerCredentials(logger *slog.Logger) (credentials.TransportCredentials, error) {
	return t.credentials(logger)
}

// ClientCredentials are for a gRPC client: TLS 1.3, with our certificate, to a server of the authorities.
func (t *TLS) ClientCredentials(logger *slog.Logger) (credentials.TransportCredentials, error) {
	return t.credentials(logger)
}

func (t *TLS) credentials(logger *slog.Logger) (credentials.TransportCredentials, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	if t.Insecure {
		return newPlain(), nil
	}
	files := &certFiles{cert: t.Cert, key: t.Key, ca: t.CA, logger: logger}
	if _, err := files.current(); err != nil {
		return nil, err
	}
	made := newReloading(files, t.ServerName)
	made.optional = t.AcceptTokens
	return made, nil
}

// CallOptions are for connections that go with the credentials: they add the token to each call.
func (t *TLS) CallOptions() []grpc.DialOption {
	if t.TokenFile == "" {
		return nil
	}
	return []grpc.DialOption{grpc.WithPerRPCCredentials(&tokenFile{name: t.TokenFile})}
}
