// Package pki makes certificates for mutual TLS on hosts that have no other authority: an authority in a folder, and
// certificates of it for the roles of package identity. What a certificate says is computed (Wish, Renewal); an
// Authority signs it; Folder and Pair are the files. Keys are ECDSA P-256, without passphrase: a file's mode is its lock.
package pki
