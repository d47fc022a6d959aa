// Package tpm reads and extends the PCRs of a TPM 2.0.
//
// [Open] opens the kernel's device or the socket of a software TPM. A [Device]
// knows which banks are active; it reads them as one snapshot and extends all
// of them or none. It is also a transport of go-tpm, with a time limit and the
// retries that the TPM may ask for.
//
// Extending proves nothing: a TPM answers success for a bank that is not
// active. Who extends must read back; package kexec does.
package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// DefaultTimeout is the time limit of one command, retries included, if
// Options has none. The kernel gives a TPM 2 s for an extend and minutes for
// making a key; systemd-shutdown kills a hook after 90 s, and one that waits
// for a dead TPM must still be able to unload the image.
const DefaultTimeout = 60 * time.Second

// Errors of a Device, to be tested for with errors.Is.
var (
	// ErrNoTPM: there is no such device. It is an fs.ErrNotExist too.
	ErrNoTPM = fmt.Errorf("no TPM: %w", fs.ErrNotExist)
	// ErrNotTPM2: what answers is no TPM 2.0, or what it says is not a response.
	ErrNotTPM2 = errors.New("not a TPM 2.0")
	// ErrTimeout: the TPM did not answer within Options.Timeout.
	ErrTimeout = errors.New("no answer from the TPM")
	// ErrUnusable: a command failed earlier and its answer may still come, or
	// the device was closed. Nothing was sent.
	ErrUnusable = errors.New("no longer usable")
)

// Options says how to talk to a TPM. The zero value is good.
type Options struct {
	// Timeout is the time limit of one command, retries included. 0 means
	// DefaultTimeout.
	Timeout time.Duration
}

// A Transport carries single commands to a TPM.
type Transport interface {
	// Send sends one command and returns the whole response to it.
	Send(command []byte) ([]byte, error)
	// Close releases what Send needs. Send may still be waiting.
	Close() error
}

// A Device is a TPM 2.0. It is for one goroutine at a time.
type Device struct {
	name       string // for errors
	transport  Transport
	timeout    time.Duration
	broken     error                   // why nothing may be sent any more
	allocation []tpm2.TPMSPCRSelection // what getAllocation got; it only changes at a TPM reset
}

// New returns the TPM at the other end of t, which it closes on Close. It sends
// nothing.
func New(t Transport, opts Options) *Device {
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	return &Device{name: "TPM", transport: t, timeout: opts.Timeout}
}

// Close closes the device. Every later call fails with ErrUnusable.
func (d *Device) Close() error {
	d.broken = fs.ErrClosed
	return d.transport.Close()
}

// The longest wait between two tries of a command.
const maxBackoff = 500 * time.Millisecond

// Send sends one command and returns the response to it, which is at least well
// framed and may hold a response code. With it a Device is a transport.TPM of
// go-tpm.
//
// If the TPM asks for it, the command is sent again (TPM 2.0 Library Part 2,
// 6.6.3 "TPM_RC": TPM_RC_RETRY, TPM_RC_YIELDED, TPM_RC_TESTING), until half of
// Options.Timeout is over, so that the last try has the other half; the error
// is then that tpm2.TPMRC. Any other error leaves the device unusable, so that a
// late answer is never taken for the answer to the next command.
func (d *Device) Send(command []byte) ([]byte, error) {
	if d.broken != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, d.broken)
	}
	deadline, tryUntil := time.Now().Add(d.timeout), time.Now().Add(d.timeout/2)
	for wait := time.Millisecond; ; wait = min(2*wait, maxBackoff) {
		response, err := d.exchange(slices.Clone(command), time.Until(deadline))
		if err != nil {
			d.broken = err
			return nil, err
		}
		switch rc := responseCode(response); rc {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
			if time.Sleep(wait); time.Now().After(tryUntil) {
				return nil, fmt.Errorf("still busy after %v: %w", d.timeout/2, rc)
			}
		default:
			return response, nil
		}
	}
}

// exchange sends one command once. Reading or writing a TPM's device file
// cannot be interrupted, so the time limit is kept by leaving it behind.
func (d *Device) exchange(command []byte, limit time.Duration) ([]byte, error) {
	type result struct {
		response []byte
		err      error
	}
	done := make(chan result, 1)
	go func() {
		response, err := d.transport.Send(command)
		done <- result{response, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		if errors.Is(r.err, os.ErrDeadlineExceeded) {
			break
		}
		if r.err == nil {
			r.err = checkResponse(r.response)
		}
		return r.response, r.err
	case <-timer.C:
	}
	return nil, fmt.Errorf("%w within %v", ErrTimeout, d.timeout)
}

// The header of a response: tag, size, response code (TPM 2.0 Library Part 1,
// 18.8 "Response Header").
const (
	headerSize  = 10
	maxResponse = 16 << 10 // the kernel's buffer is 4 KiB
)

// rspCommand is the tag with which a TPM 1.2 answers, and a TPM 2.0 that was
// sent a bad tag (Part 2, 6.9 "TPM_ST": TPM_ST_RSP_COMMAND).
const rspCommand = 0x00C4

// responseSize returns the size that the header of a response says it has.
func responseSize(header []byte) (int, error) {
	n := binary.BigEndian.Uint32(header[2:])
	if n < headerSize || n > maxResponse {
		return 0, fmt.Errorf("%w: its response says it has %d bytes", ErrNotTPM2, n)
	}
	return int(n), nil
}

func responseCode(response []byte) tpm2.TPMRC {
	return tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
}

// checkResponse returns an error if b is not framed as a response of a TPM 2.0.
func checkResponse(b []byte) error {
	if len(b) < headerSize {
		return fmt.Errorf("%w: its response has only %d bytes", ErrNotTPM2, len(b))
	}
	n, err := responseSize(b)
	if err != nil {
		return err
	}
	if n != len(b) {
		return fmt.Errorf("%w: its response says it has %d bytes, but has %d", ErrNotTPM2, n, len(b))
	}
	switch tag := binary.BigEndian.Uint16(b); tpm2.TPMST(tag) {
	case tpm2.TPMSTNoSessions, tpm2.TPMSTSessions:
		return nil
	case rspCommand:
		return fmt.Errorf("%w: it answers as a TPM 1.2 does", ErrNotTPM2)
	default:
		return fmt.Errorf("%w: its response has the tag 0x%04x", ErrNotTPM2, tag)
	}
}
