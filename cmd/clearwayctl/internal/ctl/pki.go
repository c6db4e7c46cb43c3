package ctl

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/pki"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/ipam/identity"
)

// authorityFolder is where an authority is when nothing else is said.
const authorityFolder = "clearway-pki"

func (a *app) pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make an authority and certificates for mutual TLS",
		Long: `Make an authority in a folder, and certificates of it. Nobody is called: do it on a machine that you trust with
the authority's key. Each party gets its own certificate and key, and the authority's certificate (ca.crt); the
authority's key (ca.key) stays where it is.`,
		Example: `  clearwayctl pki init --dir pki
  clearwayctl pki issue ipamd --san 192.0.2.11,ipamd.example.net --dir pki
  clearwayctl pki issue node h1 --dir pki
  clearwayctl pki issue operator alice --dir pki
  clearwayctl pki show pki/*.crt
  clearwayctl pki renew --dir pki`,
	}
	cmd.AddCommand(a.pkiInitCommand(), a.pkiIssueCommand(), a.pkiRenewCommand(), a.pkiShowCommand())
	return cmd
}

// validity is a flag that takes days.
type validity time.Duration

func (v *validity) String() string { return pki.WriteTime(time.Duration(*v)) }
func (v *validity) Type() string   { return "TIME" }
func (v *validity) Set(text string) error {
	length, err := pki.ParseTime(text)
	*v = validity(length)
	return err
}

func (v *validity) get() time.Duration { return time.Duration(*v) }

func folderFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", authorityFolder, "`DIR` of the authority")
}

func (a *app) pkiInitCommand() *cobra.Command {
	var dir, name string
	valid := validity(pki.AuthorityTime)
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Make an authority; one that is there is never overwritten",
		Example: `  clearwayctl pki init --dir pki`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := pki.CheckTime(valid.get()); err != nil {
				return daemon.Usage("%w", err)
			}
			made, err := pki.Folder(dir).Init(name, valid.get(), time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: authority, until %s\n", pki.Folder(dir).Authority(), ends(made))
			return err
		},
	}
	folderFlag(cmd, &dir)
	cmd.Flags().StringVar(&name, "name", "clearway", "`NAME` of the authority")
	cmd.Flags().Var(&valid, "valid-for", "how long it holds, as 3650d or 12h")
	return cmd
}

func (a *app) pkiIssueCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "issue", Short: "Make a certificate for a node, an ipamd, an operator or a viewer"}
	cmd.AddCommand(
		issueCommand(identity.Node, "node NAME", cobra.ExactArgs(1),
			"An agent's: it acts as the node of this name, and reads nothing else", "pki issue node h1"),
		issueCommand(identity.Ipamd, "ipamd [NAME]", cobra.MaximumNArgs(1),
			"An ipamd's: it serves under the names and addresses of --san",
			"pki issue ipamd --san 192.0.2.11,2001:db8::11,ipamd.example.net"),
		issueCommand(identity.Operator, "operator NAME", cobra.ExactArgs(1),
			"A person's or program's who changes resources", "pki issue operator alice"),
		issueCommand(identity.Viewer, "viewer NAME", cobra.ExactArgs(1),
			"A person's or program's who reads resources", "pki issue viewer bob --valid-for 30d"),
	)
	return cmd
}

func issueCommand(role identity.Role, use string, args cobra.PositionalArgs, short, example string) *cobra.Command {
	var dir, out string
	wish := pki.Wish{Role: role, Name: string(role)}
	valid := validity(pki.CertificateTime)
	cmd := &cobra.Command{
		Use: use, Short: short, Example: "  clearwayctl " + example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				wish.Name = args[0]
			}
			if wish.ValidFor = valid.get(); wish.Check() != nil {
				return daemon.Usage("%w", wish.Check())
			}
			authority, err := pki.Folder(dir).Open()
			if err != nil {
				return err
			}
			now := time.Now()
			if left := authority.Ends().Sub(now); !cmd.Flags().Changed("valid-for") && left < wish.ValidFor {
				wish.ValidFor = left // nobody asked for more
			}
			pair := pki.Folder(dir).Place(wish, out)
			made, err := pair.Issue(authority, wish, now)
			if err != nil {
				return err
			}
			return told(cmd, pair.Cert(), made)
		},
	}
	folderFlag(cmd, &dir)
	cmd.Flags().StringVar(&out, "out", "", "`PATH` of the files, without .crt and .key (default: ROLE-NAME in --dir)")
	cmd.Flags().Var(&valid, "valid-for", "how long it holds, as 365d or 12h")
	if role == identity.Ipamd {
		cmd.Flags().StringSliceVar(&wish.SANs, "san", nil, "`ADDRESS|NAME,...` that agents and operators call it by")
	}
	return cmd
}

func (a *app) pkiRenewCommand() *cobra.Command {
	var dir string
	var valid, within validity
	cmd := &cobra.Command{
		Use:   "renew [FILE.crt...]",
		Short: "Replace certificates and their keys by new ones for the same names and role",
		Long: `Replace certificates and their keys (FILE.key beside FILE.crt) by new ones for the same names and role; without
FILE, all that are in --dir. Daemons use the new files from their next connection on. The authority's own certificate
is renewed when it is named (ca.crt), and keeps its key: what it has signed stays good, and everybody needs the new file
before the old one ends.`,
		Example: `  clearwayctl pki renew --dir pki
  clearwayctl pki renew --dir pki --within 30d      # only those that end soon
  clearwayctl pki renew --dir pki /etc/clearway/ipamd.crt`,
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := checkRenewal(cmd, valid); err != nil {
				return err
			}
			return renew(cmd, pki.Folder(dir), files, valid.get(), within.get())
		},
	}
	folderFlag(cmd, &dir)
	cmd.Flags().Var(&valid, "valid-for", "how long they hold from now on (default: as long as before)")
	cmd.Flags().Var(&within, "within", "only those that end in this time, as 30d (default: all)")
	for _, name := range []string{"valid-for", "within"} {
		cmd.Flags().Lookup(name).DefValue = ""
	}
	return cmd
}

func checkRenewal(cmd *cobra.Command, valid validity) error {
	if !cmd.Flags().Changed("valid-for") {
		return nil
	}
	if err := pki.CheckTime(valid.get()); err != nil {
		return daemon.Usage("%w", err)
	}
	return nil
}

// renew renews each file by itself: one that cannot be does not keep the others from it.
func renew(cmd *cobra.Command, dir pki.Folder, files []string, valid, within time.Duration) error {
	authority, err := dir.Open()
	if err != nil {
		return err
	}
	if len(files) == 0 {
		if files, err = dir.Issued(); err != nil {
			return err
		}
	}
	now := time.Now()
	var faults []error
	for _, file := range files {
		due, err := endsWithin(file, within, now)
		if err == nil && due {
			var made *x509.Certificate
			if made, err = pki.Renew(file, authority, valid, now); err == nil {
				err = told(cmd, file, made)
			}
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// endsWithin tells whether a certificate ends in a time; 0: any does.
func endsWithin(file string, within time.Duration, now time.Time) (bool, error) {
	if within == 0 {
		return true, nil
	}
	certificate, err := pki.Show(file)
	if err != nil {
		return false, err
	}
	return certificate.NotAfter.Sub(now) < within, nil
}

func (a *app) pkiShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE...",
		Short:   "Show what certificates say: role, names, until when",
		Example: `  clearwayctl pki show /etc/clearway/*.crt`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var shown []shownCertificate
			var faults []error
			for _, file := range files {
				certificate, err := pki.Show(file)
				if err != nil {
					faults = append(faults, err)
					continue
				}
				shown = append(shown, showCertificate(file, certificate, time.Now()))
			}
			return errors.Join(append(faults, a.printCertificates(cmd, shown))...)
		},
	}
}

// shownCertificate is a certificate as it is shown.
type shownCertificate struct {
	File      string   `json:"file"`
	Roles     []string `json:"roles"`
	Holder    string   `json:"holder"`
	SANs      []string `json:"sans"`
	Subject   string   `json:"subject"`
	Issuer    string   `json:"issuer"`
	NotBefore string   `json:"notBefore"`
	NotAfter  string   `json:"notAfter"`
	// Status is Valid, Expired or NotYetValid.
	Status string `json:"status"`
}

func showCertificate(file string, certificate *x509.Certificate, now time.Time) shownCertificate {
	who := identity.Of(certificate)
	made := shownCertificate{
		File: file, Roles: []string{}, Holder: who.Holder(), SANs: append([]string{}, certificate.DNSNames...),
		Subject: certificate.Subject.String(), Issuer: certificate.Issuer.String(),
		NotBefore: certificate.NotBefore.UTC().Format(time.RFC3339), NotAfter: ends(certificate), Status: "Valid",
	}
	for _, role := range who.Roles() {
		made.Roles = append(made.Roles, string(role))
	}
	if certificate.IsCA {
		made.Roles = []string{"authority"}
	}
	for _, address := range certificate.IPAddresses {
		made.SANs = append(made.SANs, address.String())
	}
	switch {
	case now.After(certificate.NotAfter):
		made.Status = "Expired"
	case now.Before(certificate.NotBefore):
		made.Status = "NotYetValid"
	}
	return made
}

func (a *app) printCertificates(cmd *cobra.Command, shown []shownCertificate) error {
	if _, structured := a.structured(); structured {
		return a.printValue(cmd, map[string]any{"items": slices.Concat([]shownCertificate{}, shown)})
	}
	if len(shown) == 0 {
		return nil
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	var rows [][]string
	for _, one := range shown {
		rows = append(rows, []string{one.File, strings.Join(one.Roles, ","), one.Holder, strings.Join(one.SANs, ","),
			one.NotAfter, one.Status, one.Issuer})
	}
	err := view.Rows(out, a.style(), []string{"FILE", "ROLE", "NAME", "SANS", "UNTIL", "STATUS", "ISSUER"}, rows)
	return errors.Join(err, out.Flush())
}

// told says in one line what was made.
func told(cmd *cobra.Command, file string, made *x509.Certificate) error {
	what := "authority"
	if who := identity.Of(made); !made.IsCA {
		words := make([]string, 0, len(who.Roles()))
		for _, role := range who.Roles() {
			words = append(words, string(role))
		}
		what = strings.TrimSpace(strings.Join(words, ",") + " " + who.Holder())
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, until %s\n", file, what, ends(made))
	return err
}

func ends(certificate *x509.Certificate) string {
	return certificate.NotAfter.UTC().Format(time.RFC3339)
}
