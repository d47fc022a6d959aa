// Package creds reads the headers of systemd's encrypted credentials and tells
// in which TPM state one of them decrypts (systemd 250 to 262,
// src/shared/creds-util.c; systemd-creds(1)). Nothing is decrypted.
package creds

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// MaxSize is the size in bytes above which a file is refused. systemd takes
// 1 MiB of secret and 128 KiB of headers (CREDENTIAL_ENCRYPTED_SIZE_MAX), which
// are base64 in the file.
const MaxSize = 2 << 20

// A Credential is what the header of an encrypted credential tells. Its name,
// its validity and the secret are encrypted.
type Credential struct {
	// Key is what it is encrypted with: null, host, tpm2, host+tpm2,
	// tpm2-with-public-key or host+tpm2-with-public-key (systemd-creds(1), --with-key=).
	Key string
	// User: it is for a user of a machine, not for the system (since 256).
	User bool
	// Policy says in which state the TPM takes part. It is nil if no TPM is needed.
	Policy *Policy
}

// A format is one of the layouts that the first 16 bytes of a credential name.
type format struct {
	key  string
	tpm2 bool
	pk   bool // a public key follows
	srk  bool // the public area of the storage root key follows (systemd 262)
	user bool
}

// formats has the first 16 bytes of all of them in hexadecimal. Where a TPM is
// needed systemd 262 writes those with an SRK, earlier versions the others.
var formats = map[string]format{
	"058469daf6f54324800549da0f8ea2fb": {key: "null"},
	"5a1c6a86df9d4096b1d5a65e0862f19a": {key: "host"},
	"55b9ed1d38594d43a8319d2ebb332ac6": {key: "host", user: true},
	"0c7cc07b117645919c4b0bea08bc20fe": {key: "tpm2", tpm2: true},
	"faf7eb9341e3412ca1a436f95a29362f": {key: "tpm2-with-public-key", tpm2: true, pk: true},
	"93a894094874449090caf2fc93cab553": {key: "host+tpm2", tpm2: true},
	"ef4ac13679a9480ea7db68897f9f165d": {key: "host+tpm2", tpm2: true, user: true},
	"af4950a849134eb1a73846304ff30c05": {key: "host+tpm2-with-public-key", tpm2: true, pk: true},
	"adbc4ca3efb64201ba881b6f2e4095ea": {key: "host+tpm2-with-public-key", tpm2: true, pk: true, user: true},
	"d4062dfb71ad4c86804b40ef1180f1fc": {key: "tpm2", tpm2: true, srk: true},
	"5e2d5c7603724eaf843c6fb5f64098f5": {key: "tpm2-with-public-key", tpm2: true, pk: true, srk: true},
	"1414258818a240cd900bce862db5c7b9": {key: "host+tpm2", tpm2: true, srk: true},
	"2a1f877a4275431ab3f9ed1f5d8f6601": {key: "host+tpm2", tpm2: true, srk: true, user: true},
	"afbfeaaceb6a4a3795419d135c47f37b": {key: "host+tpm2-with-public-key", tpm2: true, pk: true, srk: true},
	"16e492949f94400286758f94b7c52bc7": {key: "host+tpm2-with-public-key", tpm2: true, pk: true, srk: true, user: true},
}

// Sizes in bytes. Those of AES-256-GCM are what systemd writes; it reads no other.
const (
	idSize       = 16
	keySize      = 32
	blockSize    = 1
	ivSize       = 12
	tagSize      = 16
	metadataSize = 24 // at least: two times, the size of the name, padding

	maxField = 16 << 10 // CREDENTIAL_FIELD_SIZE_MAX
	maxPEM   = 1 << 20  // PUBLIC_KEY_MAX
)

// userFlags are that the key depends on the UID, the machine ID and the name of
// the user (SCOPE_HASH_DATA_BASE_FLAGS).
const userFlags = 7

// TPM 2.0 algorithms of the primary key that a credential is sealed under.
const (
	algRSA = 0x0001
	algECC = 0x0023
)

// Parse parses the header of an encrypted credential from a file, which has it
// in base64. What is encrypted is not looked at. A format, bank or algorithm
// that is not known is an error that wraps [policy.ErrCannotTell].
func Parse(data []byte) (*Credential, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("credential: more than %d bytes", MaxSize)
	}
	b, err := decode(string(data))
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	r := &reader{data: b}
	c, err := parse(r)
	if err != nil {
		return nil, fmt.Errorf("credential: at byte %d: %w", r.at, err)
	}
	return c, nil
}

// decode decodes base64 with white space anywhere in it (systemd 262,
// src/basic/hexdecoct.c, unbase64mem()).
func decode(text string) ([]byte, error) {
	space := func(c rune) rune {
		if strings.ContainsRune(" \t\n\r", c) {
			return -1
		}
		return c
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.Map(space, text))
	if err != nil {
		return nil, fmt.Errorf("not base64: %.80q", text)
	}
	return b, nil
}

func parse(r *reader) (*Credential, error) {
	id, err := r.bytes("key type", idSize)
	if err != nil {
		return nil, err
	}
	f, ok := formats[hex.EncodeToString(id)]
	if !ok {
		r.at = 0
		return nil, fmt.Errorf("key type %x: unknown: %w", id, policy.ErrCannotTell)
	}
	for _, size := range []struct {
		what string
		want uint32
	}{{"key size", keySize}, {"block size", blockSize}, {"IV size", ivSize}, {"tag size", tagSize}} {
		if err := r.want32(size.what, size.want); err != nil {
			return nil, err
		}
	}
	if _, err = r.bytes("IV", ivSize); err != nil {
		return nil, err
	}
	if err := r.align(); err != nil {
		return nil, err
	}
	c := &Credential{Key: f.key, User: f.user}
	if f.tpm2 {
		if c.Policy, err = parsePolicy(r, f); err != nil {
			return nil, err
		}
	}
	if f.user {
		if err := r.want64("flags of the user's key", userFlags); err != nil {
			return nil, err
		}
	}
	if left := len(r.data) - r.at; left < metadataSize+tagSize {
		return nil, fmt.Errorf("encrypted part of %d bytes: it has %d at least", left, metadataSize+tagSize)
	}
	return c, nil
}

// parsePolicy reads the TPM2 header and those that belong to it.
func parsePolicy(r *reader, f format) (*Policy, error) {
	p := &Policy{}
	var err error
	if p.PCRs, err = r.pcrs("PCRs"); err != nil {
		return nil, err
	}
	bank, err := r.uint16("PCR bank")
	if err != nil {
		return nil, err
	}
	if p.Bank = measure.Bank(bank); p.Bank.Size() == 0 {
		r.at -= 2
		return nil, fmt.Errorf("PCR bank 0x%04x: unknown: %w", bank, policy.ErrCannotTell)
	}
	alg, err := r.uint16("primary key")
	if err != nil {
		return nil, err
	}
	if alg != algRSA && alg != algECC {
		r.at -= 2
		return nil, fmt.Errorf("primary key of algorithm 0x%04x: unknown: %w", alg, policy.ErrCannotTell)
	}
	blobSize, err := r.size("sealed key", maxField)
	if err != nil {
		return nil, err
	}
	if err := r.want32("policy digest size", uint32(len(p.Digest))); err != nil {
		return nil, err
	}
	if _, err := r.bytes("sealed key", blobSize); err != nil {
		return nil, err
	}
	digest, err := r.bytes("policy digest", len(p.Digest))
	if err != nil {
		return nil, err
	}
	if p.Digest, err = tpm2.ParseDigest(digest); err != nil {
		return nil, err
	}
	if err := r.align(); err != nil {
		return nil, err
	}
	if f.pk {
		if p.PublicKeyPCRs, err = r.pcrs("PCRs of the public key"); err != nil {
			return nil, err
		}
		if len(p.PublicKeyPCRs) == 0 {
			return nil, fmt.Errorf("PCRs of the public key: none")
		}
		if p.PublicKey, err = r.sized("public key", maxPEM); err != nil {
			return nil, err
		}
	}
	if f.srk {
		if _, err = r.sized("storage root key", maxField); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// A reader reads the fields of a header, which are little-endian.
type reader struct {
	data []byte
	at   int
}

// bytes returns the next n bytes, which are not copied.
func (r *reader) bytes(what string, n int) ([]byte, error) {
	if left := len(r.data) - r.at; n > left {
		return nil, fmt.Errorf("%s: %d bytes, but only %d are left", what, n, left)
	}
	r.at += n
	return r.data[r.at-n : r.at : r.at], nil
}

func (r *reader) uint16(what string) (uint16, error) {
	b, err := r.bytes(what, 2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(b), nil
}

// want32 reads a number that has only one value.
func (r *reader) want32(what string, want uint32) error {
	b, err := r.bytes(what, 4)
	if err != nil {
		return err
	}
	if n := binary.LittleEndian.Uint32(b); n != want {
		r.at -= 4
		return fmt.Errorf("%s: %d, not %d", what, n, want)
	}
	return nil
}

func (r *reader) want64(what string, want uint64) error {
	b, err := r.bytes(what, 8)
	if err != nil {
		return err
	}
	if n := binary.LittleEndian.Uint64(b); n != want {
		r.at -= 8
		return fmt.Errorf("%s: 0x%x, not 0x%x", what, n, want)
	}
	return nil
}

// pcrs reads a mask of 64 bits.
func (r *reader) pcrs(what string) ([]measure.PCR, error) {
	b, err := r.bytes(what, 8)
	if err != nil {
		return nil, err
	}
	mask := binary.LittleEndian.Uint64(b)
	if mask>>24 != 0 { // TPM2_PCRS_MAX
		r.at -= 8
		return nil, fmt.Errorf("%s: mask 0x%x: there are PCR 0 to 23", what, mask)
	}
	var pcrs []measure.PCR
	for n := range measure.PCR(24) {
		if mask>>n&1 == 1 {
			pcrs = append(pcrs, n)
		}
	}
	return pcrs, nil
}

// size reads the size of a field that is not empty.
func (r *reader) size(what string, most uint32) (int, error) {
	b, err := r.bytes(what+" size", 4)
	if err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > most {
		r.at -= 4
		return 0, fmt.Errorf("%s: %d bytes, not 1 to %d", what, n, most)
	}
	return int(n), nil
}

// sized reads a field with its size before it, and the padding.
func (r *reader) sized(what string, most uint32) ([]byte, error) {
	n, err := r.size(what, most)
	if err != nil {
		return nil, err
	}
	b, err := r.bytes(what, n)
	if err != nil {
		return nil, err
	}
	return b, r.align()
}

// align reads the padding up to a multiple of 8, which is of zero bytes: it is
// authenticated, so that a credential with another one does not decrypt.
func (r *reader) align() error {
	padding, err := r.bytes("padding", -r.at&7)
	if err != nil {
		return err
	}
	for _, b := range padding {
		if b != 0 {
			r.at -= len(padding)
			return fmt.Errorf("padding %x: not zero", padding)
		}
	}
	return nil
}
