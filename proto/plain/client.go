package plain

import (
	"errors"
	"fmt"
	"time"

	"github.com/clearway/clearway/proto/unary"
)

// Client calls AddressService on a connection to an agent. Its errors are *Status.
type Client struct{ conn *unary.Conn }

// NewClient makes a client of a connection, which becomes its own.
func NewClient(transport unary.Transport) *Client { return &Client{unary.New(transport)} }

// Status is the error of a call.
type Status struct {
	Code    unary.Code
	Message string
	// CNIError is the agent's own word, or nil.
	CNIError *CNIError
}

// Error implements error.
func (s *Status) Error() string { return fmt.Sprintf("%s: %s", s.Code, s.Message) }

// Add assigns addresses.
func (c *Client) Add(request *AddRequest, deadline time.Time) (*AddResponse, error) {
	answer, err := c.call("Add", request, deadline)
	if err != nil {
		return nil, err
	}
	response := &AddResponse{}
	if err := response.decode(answer); err != nil {
		return nil, &Status{Code: unary.Internal, Message: "the answer cannot be decoded: " + err.Error()}
	}
	return response, nil
}

// Del releases what the attachment holds.
func (c *Client) Del(request *DelRequest, deadline time.Time) error {
	_, err := c.call("Del", request, deadline)
	return err
}

// Check fails when the attachment does not hold exactly these addresses.
func (c *Client) Check(request *CheckRequest, deadline time.Time) error {
	_, err := c.call("Check", request, deadline)
	return err
}

// Status fails when Add would.
func (c *Client) Status(request *StatusRequest, deadline time.Time) error {
	_, err := c.call("Status", request, deadline)
	return err
}

// GC releases every attachment of the network that is not in the list.
func (c *Client) GC(request *GCRequest, deadline time.Time) error {
	_, err := c.call("GC", request, deadline)
	return err
}

func (c *Client) call(method string, request interface{ encode(*encoder) }, deadline time.Time) ([]byte, error) {
	var message encoder
	request.encode(&message)
	if message.err != nil {
		return nil, &Status{Code: unary.Internal, Message: "the request cannot be encoded: " + message.err.Error()}
	}
	answer, err := c.conn.Call("/clearway.v1.AddressService/"+method, message.bytes, deadline)
	if err != nil {
		return nil, statusOf(err)
	}
	return answer, nil
}

// statusOf is the error of a call with its details decoded. Those that cannot be are as if they were not there.
func statusOf(err error) *Status {
	var failed *unary.Status
	if !errors.As(err, &failed) {
		return &Status{Code: unary.Unknown, Message: err.Error()}
	}
	status := &Status{Code: failed.Code, Message: failed.Message}
	var rpc rpcStatus
	if failed.Details == nil || rpc.decode(failed.Details) != nil {
		return status
	}
	if rpc.code != uint32(failed.Code) {
		return &Status{Code: unary.Internal, Message: fmt.Sprintf("the status %s (%s) has details of %s (%s)",
			failed.Code, failed.Message, unary.Code(rpc.code), rpc.message)}
	}
	return &Status{Code: failed.Code, Message: rpc.message, CNIError: rpc.fault}
}
