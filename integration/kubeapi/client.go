package kubeapi

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
)

// client trusts one authority.
func client(authority []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 8, ForceAttemptHTTP2: true,
	}}
}
