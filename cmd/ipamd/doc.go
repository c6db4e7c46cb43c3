// Command clearway-ipamd carves blocks out of address pools, keeps them and the configuration in etcd, and tells the
// agents. This package is wiring: flags, the store, the services, and the signals.
package main
