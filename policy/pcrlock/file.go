// Package pcrlock reads pcrlock.json, the policy of systemd-pcrlock, and tells
// whether what is sealed to it opens with PCRs as they will be (systemd 262,
// src/shared/tpm2-util.c, tpm2_pcrlock_policy_from_json() and
// tpm2_calculate_policy_super_pcr(); systemd-pcrlock(8)).
package pcrlock

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/strictjson"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// MaxSize is the size in bytes above which a file is refused. systemd-pcrlock
// writes up to some 30 000 bytes.
const MaxSize = 1 << 20

// MaxValues is the number of values above which a PCR is refused, as
// systemd-pcrlock refuses to write them: a TPM2_PolicyOR has so many branches at most.
const MaxValues = 8

// maxPCR is the highest PCR (TCG PC Client Platform TPM Profile).
const maxPCR = 23

// A File is a pcrlock.json.
type File struct {
	// Bank is the bank of the values.
	Bank measure.Bank
	// Values are the accepted values of each PCR in the order of the file. A PCR
	// that is absent, or has none, may have any value.
	Values map[measure.PCR][]measure.Digest
	// NVIndex is the handle of the NV index that holds the policy, and NVName
	// the Name it has once it has been written.
	NVIndex uint32
	NVName  []byte
}

// Parse parses a file. Every key that systemd writes has to be there; one that
// is not known is an error that wraps [policy.ErrCannotTell]. The sealed PIN and
// the storage root key are not looked at.
func Parse(data []byte) (*File, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("pcrlock: more than %d bytes", MaxSize)
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("pcrlock: %w", err)
	}
	return f, nil
}

func parse(data []byte) (*File, error) {
	if err := strictjson.Validate(data); err != nil {
		return nil, err
	}
	f := &File{}
	fields := []struct {
		name  string
		parse func(json.RawMessage) error
	}{
		{"pcrBank", f.parseBank},
		{"pcrValues", f.parseValues},
		{"nvIndex", f.parseIndex},
		{"nvPublic", f.parsePublic},
		{"nvHandle", f.parseHandle},
		{"srkHandle", ignore},
		{"pinPublic", ignore},
		{"pinPrivate", ignore},
	}
	var known []string
	for _, field := range fields {
		known = append(known, field.name)
	}
	keys, err := strictjson.Object(data, known...)
	if err != nil {
		return nil, err
	}
	for _, field := range fields {
		value, ok := keys[field.name]
		if !ok {
			return nil, fmt.Errorf("no %s", field.name)
		}
		if err := field.parse(value); err != nil {
			return nil, fmt.Errorf("%s: %w", field.name, err)
		}
	}
	return f, nil
}

func ignore(json.RawMessage) error { return nil }

func (f *File) parseBank(value json.RawMessage) error {
	s, err := strictjson.Text(value)
	if err != nil {
		return err
	}
	if f.Bank, err = measure.ParseBank(s); err != nil {
		return fmt.Errorf("%w: %w", err, policy.ErrCannotTell)
	}
	return nil
}

func (f *File) parseValues(value json.RawMessage) error {
	list, err := strictjson.Elements(value)
	if err != nil {
		return err
	}
	f.Values = map[measure.PCR][]measure.Digest{}
	for i, value := range list {
		keys, err := strictjson.Object(value, "pcr", "values")
		if err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
		pcr, err := strconv.ParseUint(string(keys["pcr"]), 10, 8)
		if err != nil || pcr > maxPCR {
			return fmt.Errorf("entry %d: pcr %.20q: not a number from 0 to %d", i+1, keys["pcr"], maxPCR)
		}
		n := measure.PCR(pcr)
		if _, twice := f.Values[n]; twice {
			return fmt.Errorf("PCR %d twice", n)
		}
		if f.Values[n], err = parseDigests(f.Bank, keys["values"]); err != nil {
			return fmt.Errorf("PCR %d: %w", n, err)
		}
	}
	return nil
}

func parseDigests(bank measure.Bank, value json.RawMessage) ([]measure.Digest, error) {
	list, err := strictjson.Elements(value)
	if err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	if len(list) > MaxValues {
		return nil, fmt.Errorf("%d values, but a policy takes %d: %w", len(list), MaxValues, policy.ErrCannotTell)
	}
	var digests []measure.Digest
	for _, value := range list {
		s, err := strictjson.Text(value)
		if err != nil {
			return nil, err
		}
		d, err := measure.ParseDigest(bank, s)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(digests, func(other measure.Digest) bool { return bytes.Equal(d, other) }) {
			return nil, fmt.Errorf("value %s twice", d)
		}
		digests = append(digests, d)
	}
	return digests, nil
}

func (f *File) parseIndex(value json.RawMessage) error {
	n, err := strconv.ParseUint(string(value), 10, 32)
	if err != nil || n>>24 != nvHandleType {
		return fmt.Errorf("%.20q: not the handle of an NV index", value)
	}
	f.NVIndex = uint32(n)
	return nil
}

// nvHandleType is the first byte of the handle of an NV index (TPM 2.0 Library
// Part 2, 7.2 "TPM_HT").
const nvHandleType = 0x01

// nvDataSize is the size in bytes of what is in the index: the hash algorithm
// and a SHA-256 policy digest.
const nvDataSize = 2 + 32

// parsePublic parses a TPM2B_NV_PUBLIC (TPM 2.0 Library Part 2, 13.6).
func (f *File) parsePublic(value json.RawMessage) error {
	b, err := blob(value)
	if err != nil {
		return err
	}
	public, rest, ok := tpm2.Sized(b)
	if !ok || len(rest) > 0 {
		return fmt.Errorf("%d bytes that are no TPM2B_NV_PUBLIC", len(b))
	}
	if f.NVName, err = tpm2.NVName(public, true); err != nil {
		return err
	}
	// NVName knows that there are an index at the begin and a size at the end
	if index := binary.BigEndian.Uint32(public); index != f.NVIndex {
		return fmt.Errorf("of NV index 0x%x, not 0x%x", index, f.NVIndex)
	}
	if size := binary.BigEndian.Uint16(public[len(public)-2:]); size != nvDataSize {
		return fmt.Errorf("an NV index of %d bytes, not %d", size, nvDataSize)
	}
	return nil
}

// esysNV is the type of an NV index in tpm2-tss's serialized handles (tpm2-tss,
// src/tss2-esys/esys_types.h, IESYSC_NV_RSRC).
const esysNV = 2

// parseHandle parses a handle as Esys_TR_Serialize() writes it: u32 handle,
// TPM2B_NAME, u32 type, TPM2B_NV_PUBLIC. It has to be of the same index.
func (f *File) parseHandle(value json.RawMessage) error {
	b, err := blob(value)
	if err != nil {
		return err
	}
	const malformed = "%d bytes that are no serialized handle of an NV index"
	if len(b) < 4 {
		return fmt.Errorf(malformed, len(b))
	}
	name, rest, ok := tpm2.Sized(b[4:])
	if !ok || len(rest) < 4 || binary.BigEndian.Uint32(rest) != esysNV {
		return fmt.Errorf(malformed, len(b))
	}
	public, rest, ok := tpm2.Sized(rest[4:])
	if !ok || len(rest) > 0 {
		return fmt.Errorf(malformed, len(b))
	}
	if index := binary.BigEndian.Uint32(b); index != f.NVIndex {
		return fmt.Errorf("of NV index 0x%x, not 0x%x", index, f.NVIndex)
	}
	named, err := tpm2.NVName(public, true)
	if err != nil {
		return err
	}
	if !bytes.Equal(name, f.NVName) || !bytes.Equal(named, f.NVName) {
		return fmt.Errorf("of another NV index than nvPublic: name %.80x, not %x", name, f.NVName)
	}
	return nil
}

// blob returns what a string has in base64.
func blob(value json.RawMessage) ([]byte, error) {
	s, err := strictjson.Text(value)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%.80q: not base64", s)
	}
	return b, nil
}

// SuperPolicy returns the policy digest that systemd puts into the NV index for
// the values: one TPM2_PolicyPCR over all PCRs that have one value, and then,
// for each PCR that has more, ascending, a TPM2_PolicyOR of one TPM2_PolicyPCR a value.
func (f *File) SuperPolicy() (tpm2.Digest, error) {
	var d tpm2.Digest
	single := measure.PCRs{}
	var multiple []measure.PCR
	for _, n := range slices.Sorted(maps.Keys(f.Values)) {
		switch values := f.Values[n]; len(values) {
		case 0:
		case 1:
			single.Set(f.Bank, n, values[0])
		default:
			multiple = append(multiple, n)
		}
	}
	var err error
	if len(single) > 0 {
		if d, err = d.PCR(f.Bank, slices.Collect(maps.Keys(single[f.Bank])), single); err != nil {
			return d, err
		}
	}
	for _, n := range multiple {
		var branches []tpm2.Digest
		for _, value := range f.Values[n] {
			branch, err := d.PCR(f.Bank, []measure.PCR{n}, measure.PCRs{f.Bank: {n: value}})
			if err != nil {
				return d, err
			}
			branches = append(branches, branch)
		}
		if d, err = d.OR(branches...); err != nil {
			return d, err
		}
	}
	return d, nil
}
