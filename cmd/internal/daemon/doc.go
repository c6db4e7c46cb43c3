// Package daemon is what Clearway's programs share around their work: flags that are also environment variables and
// keys of a configuration file (Bind), the log, mutual TLS with certificates that are read again when they change, the
// HTTP server of metrics and health, and a main function with signals and exit codes (Main).
//
// A program is a cobra command with its flags in one struct:
//
//	cmd := &cobra.Command{Use: "clearway-ipamd", RunE: func(cmd *cobra.Command, _ []string) error { ... }}
//	options.tls.AddFlags(cmd.Flags())
//	daemon.Bind(cmd)  // after all flags are defined
//	daemon.Main(cmd)
//
// When RunE is called, every flag variable has its final value, and cmd.Context() ends at SIGTERM or SIGINT.
package daemon
