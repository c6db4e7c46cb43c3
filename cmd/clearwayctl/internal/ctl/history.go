package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clearway/clearway/cmd/clearwayctl/internal/client"
	"github.com/clearway/clearway/cmd/clearwayctl/internal/view"
	"github.com/clearway/clearway/cmd/internal/daemon"
	"github.com/clearway/clearway/proto/clearway/v1"
	"github.com/clearway/clearway/proto/manifest"
)

// historyFlags are what is asked of the history, as written.
type historyFlags struct {
	address, pod     string
	at, since, until string
}

func (a *app) ipamHistoryCommand() *cobra.Command {
	var flags historyFlags
	cmd := &cobra.Command{
		Use:   "history {--ip ADDRESS | --pod NAMESPACE/NAME}",
		Short: "Show who held an address, or what a Pod held, and when",
		Long: `Show who held an address, or what a Pod held, and when: with --at at one moment, else from --since until --until, by
default all that is known until now. A time is written as 2026-03-01T14:05:00Z (RFC 3339), or as how long ago it was: 2h.

The record is ipamd's, of what the agents told it: IPAMConfiguration's historyRetention and historyQuota say how much of it is
kept. What the answer cannot know is said on stderr: that the record does not reach back so far, or that a node has not been
heard of lately. Nobody, or nothing, ends with exit code 3.`,
		Example: `  clearwayctl ipam history --ip 10.244.3.7 --at 2026-03-01T14:05:00Z
  clearwayctl ipam history --ip 10.244.3.7 --since 24h
  clearwayctl ipam history --pod shop/cart-0 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request, err := flags.request(cmd, time.Now())
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, calls *client.Client) error {
				return a.showHistory(ctx, cmd, calls, request)
			})
		},
	}
	cmd.Flags().StringVar(&flags.address, "ip", "", "`ADDRESS` to tell about")
	cmd.Flags().StringVar(&flags.pod, "pod", "", "Pod to tell about: `NAMESPACE/NAME`")
	cmd.Flags().StringVar(&flags.at, "at", "", "only what was held at this `TIME`")
	cmd.Flags().StringVar(&flags.since, "since", "", "only what was held at this `TIME` or later")
	cmd.Flags().StringVar(&flags.until, "until", "", "only what was held at this `TIME` or before")
	cmd.MarkFlagsMutuallyExclusive("ip", "pod")
	cmd.MarkFlagsOneRequired("ip", "pod")
	cmd.MarkFlagsMutuallyExclusive("at", "since")
	cmd.MarkFlagsMutuallyExclusive("at", "until")
	return cmd
}

// request reads the flags.
func (f historyFlags) request(cmd *cobra.Command, now time.Time) (*clearwayv1.HistoryRequest, error) {
	request := &clearwayv1.HistoryRequest{}
	if cmd.Flags().Changed("pod") {
		namespace, name, ok := strings.Cut(f.pod, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			return nil, daemon.Usage("--pod %q must be NAMESPACE/NAME", f.pod)
		}
		request.Namespace, request.Pod = namespace, name
	} else {
		address, err := netip.ParseAddr(f.address)
		if err != nil || address.Zone() != "" {
			return nil, daemon.Usage("--ip %q is no IP address", f.address)
		}
		request.Address = address.Unmap().String()
	}
	for _, one := range []struct {
		flag, text string
		to         []**timestamppb.Timestamp
	}{
		{"at", f.at, []**timestamppb.Timestamp{&request.Since, &request.Until}},
		{"since", f.since, []**timestamppb.Timestamp{&request.Since}},
		{"until", f.until, []**timestamppb.Timestamp{&request.Until}},
	} {
		if !cmd.Flags().Changed(one.flag) {
			continue
		}
		at, err := moment(one.text, now)
		if err != nil {
			return nil, daemon.Usage("--%s %q %w", one.flag, one.text, err)
		}
		for _, to := range one.to {
			*to = timestamppb.New(at)
		}
	}
	return request, nil
}

// moment reads a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, errors.New("must be a time like 2026-03-01T14:05:00Z, or how long ago it was, like 2h")
	}
	return at, nil
}

// showHistory asks and shows the answer. What it does not know goes to stderr: the rest is an answer all the same.
func (a *app) showHistory(ctx context.Context, cmd *cobra.Command, calls *client.Client, request *clearwayv1.HistoryRequest) error {
	if calls.Local() {
		return errors.New("the history is ipamd's: ask it, not an agent's socket")
	}
	answer, err := calls.History(ctx, request)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	if format, structured := a.structured(); structured {
		err = manifest.Write(out, format, answer)
	} else {
		err = a.printHistory(out, answer)
		a.printReach(cmd, answer)
	}
	if err = errors.Join(err, out.Flush()); err == nil && len(answer.GetTenures()) == 0 {
		err = daemon.Exit(daemon.ExitNotFound, nil)
	}
	return err
}

func (a *app) printHistory(out *bufio.Writer, answer *clearwayv1.HistoryResponse) error {
	fmt.Fprintln(out, answer.GetSummary())
	if len(answer.GetTenures()) == 0 {
		return nil
	}
	heads := []string{"ADDRESS", "FROM", "UNTIL", "NODE", "NAMESPACE", "POD", "NETWORK"}
	if a.style().Wide {
		heads = append(heads, "INTERFACE", "CONTAINER", "UID", "POOL", "NUMBER")
	}
	var rows [][]string
	for _, tenure := range answer.GetTenures() {
		spec := tenure.GetAssignment()
		row := []string{spec.GetAddress(), instant(spec.GetAssignedTime()), ended(tenure), spec.GetNode(),
			spec.GetPod().GetNamespace(), spec.GetPod().GetName(), spec.GetAttachment().GetNetwork()}
		if a.style().Wide {
			row = append(row, spec.GetAttachment().GetIfname(), spec.GetAttachment().GetContainerId(),
				spec.GetPod().GetUid(), spec.GetPool(), text(spec.GetJournalNumber()))
		}
		rows = append(rows, row)
	}
	return view.Rows(out, a.style(), heads, rows)
}

// printReach says on stderr how far the answer goes.
func (a *app) printReach(cmd *cobra.Command, answer *clearwayv1.HistoryResponse) {
	to := cmd.ErrOrStderr()
	if answer.GetTruncated() {
		fmt.Fprintln(to, "note: there are more; these are the newest: name a time before with --until")
	}
	for _, note := range answer.GetNotes() {
		fmt.Fprintf(to, "note: %s\n", note)
	}
	if answer.GetReachesBackTo() != nil && answer.GetAsOf() != nil {
		fmt.Fprintf(to, "the record goes from %s to %s\n", instant(answer.GetReachesBackTo()), instant(answer.GetAsOf()))
	}
}

func instant(at *timestamppb.Timestamp) string { return at.AsTime().Format(time.RFC3339) }

// ended is when a tenure ended, with <= where it is only known that it had ended by then.
func ended(tenure *clearwayv1.Tenure) string {
	switch {
	case tenure.GetReleasedTime() == nil:
		return "-"
	case tenure.GetReleasedBefore():
		return "<=" + instant(tenure.GetReleasedTime())
	}
	return instant(tenure.GetReleasedTime())
}
