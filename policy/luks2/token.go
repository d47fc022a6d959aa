package luks2

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// TokenType is the type of the tokens that this package understands.
const TokenType = "systemd-tpm2"

// errUnsupported is in the errors for what may well be right, but is not known here.
var errUnsupported = errors.New("not supported")

// maxTokens is the number of tokens and of key slots that a header may have
// (cryptsetup 2.8, lib/luks2/luks2.h: LUKS2_TOKENS_MAX, LUKS2_KEYSLOTS_MAX).
const maxTokens = 32

// A Token is a LUKS2 token. If Type is not [TokenType], or if Err is not nil, the
// fields below are zero and nothing can be told of it.
type Token struct {
	// Number is that of the token in the header, -1 if it was given alone.
	Number int
	Type   string
	// Err says why the token cannot be judged; it wraps [policy.ErrCannotTell].
	Err error

	// Keyslot is the number of the key slot that the token's secret opens.
	Keyslot int
	// PCRs are those whose values the secret is sealed to, ascending. There may be none.
	PCRs []measure.PCR
	// Bank is that of PCRs and SignedPCRs. It is zero if the token names none: it
	// uses no PCRs itself, or is by systemd 248 or 249, and systemd takes the best
	// bank that the TPM has.
	Bank measure.Bank
	// PIN tells that a PIN is wanted as well. It makes no difference to the verdict.
	PIN bool
	// SignedPCRs are the PCRs that a signature of PublicKey (PEM) has to be for,
	// ascending, and PolicyRef the reference in the signature, if not empty. Nil
	// if no signed policy is wanted.
	SignedPCRs []measure.PCR
	PublicKey  []byte
	PolicyRef  string
	// PCRLock tells that the policy of systemd-pcrlock is wanted.
	PCRLock bool

	// SRK is the handle of the storage root key that the secret is sealed under, and
	// SRKName its Name: no other TPM has that, nor this one after it was cleared. They
	// are zero before systemd 254.
	SRK     uint32
	SRKName []byte

	nvName  []byte        // of the NV index of pcrlock; nil before systemd 256
	hashes  []tpm2.Digest // the policies that the shards are sealed to, as the token says
	sealed  []tpm2.Digest // the same, as the sealed objects say
	signers signers
}

// Tokens returns the tokens of the header by their number, those of other types
// too. A token that is not understood has Err. An error means that cryptsetup
// would not take the header.
func (h *Header) Tokens() ([]*Token, error) {
	keyslots, err := h.json.object("keyslots")
	if err != nil {
		return nil, fmt.Errorf("LUKS2 header: %w", err)
	}
	list, err := h.json.object("tokens")
	if err != nil {
		return nil, fmt.Errorf("LUKS2 header: %w", err)
	}
	tokens, err := parseTokens(list)
	if err != nil {
		return nil, fmt.Errorf("LUKS2 header: tokens: %w", err)
	}
	for _, t := range tokens {
		if _, ok := keyslots[strconv.Itoa(t.Keyslot)]; !ok && t.Type == TokenType && t.Err == nil {
			return nil, fmt.Errorf("LUKS2 header: tokens: %d is for key slot %d, which is not there", t.Number, t.Keyslot)
		}
	}
	return tokens, nil
}

// MaxTokenFileSize is the size in bytes above which ParseTokens refuses data:
// that of the largest JSON area.
const MaxTokenFileSize = 4 << 20

// ParseTokens parses tokens outside of a header: an object of tokens by number,
// as a header has it, or one token alone, as cryptsetup token export prints it.
func ParseTokens(data []byte) ([]*Token, error) {
	if len(data) > MaxTokenFileSize {
		return nil, fmt.Errorf("LUKS2 tokens: more than %d bytes", MaxTokenFileSize)
	}
	o, err := parseObject(data)
	if err != nil {
		return nil, fmt.Errorf("LUKS2 tokens: %w", err)
	}
	if _, alone := o["type"]; alone {
		t, err := parseToken(-1, o)
		if err != nil {
			return nil, fmt.Errorf("LUKS2 token: %w", err)
		}
		return []*Token{t}, nil
	}
	if len(o) == 0 {
		return nil, errors.New("LUKS2 tokens: there is none")
	}
	tokens, err := parseTokens(o)
	if err != nil {
		return nil, fmt.Errorf("LUKS2 tokens: %w", err)
	}
	return tokens, nil
}

func parseTokens(list object) ([]*Token, error) {
	var tokens []*Token
	for _, key := range list.keys() {
		number, err := parseNumber(key)
		if err != nil {
			return nil, fmt.Errorf("token %w", err)
		}
		o, err := list.object(key)
		if err != nil {
			return nil, err
		}
		t, err := parseToken(number, o)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", number, err)
		}
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b *Token) int { return a.Number - b.Number })
	return tokens, nil
}

// parseNumber parses the name of a token or key slot.
func parseNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < 0 || n >= maxTokens {
		return 0, fmt.Errorf("%.20q: not a number from 0 to %d", s, maxTokens-1)
	}
	return n, nil
}

// parseToken parses what any token has. What only a systemd-tpm2 token has
// and is not understood is the token's Err.
func parseToken(number int, o object) (*Token, error) {
	t := &Token{Number: number}
	if err := o.get("type", &t.Type); err != nil {
		return nil, err
	}
	var slots []string
	if err := o.get("keyslots", &slots); err != nil {
		return nil, err
	}
	var keyslots []int
	for _, s := range slots {
		n, err := parseNumber(s)
		if err != nil {
			return nil, fmt.Errorf("keyslots: key slot %w", err)
		}
		keyslots = append(keyslots, n)
	}
	if t.Type != TokenType {
		t.Err = fmt.Errorf("type %.40q: %w: %w", t.Type, errUnsupported, policy.ErrCannotTell)
		return t, nil
	}
	if err := t.parse(o, keyslots); err != nil {
		return &Token{Number: t.Number, Type: t.Type, Err: fmt.Errorf("%w: %w", err, policy.ErrCannotTell)}, nil
	}
	return t, nil
}

// parse parses the fields of a systemd-tpm2 token (systemd 262,
// src/shared/tpm2-util.c, tpm2_parse_luks2_json()). The numbers behind them are
// the versions of systemd that have them first.
func (t *Token) parse(o object, keyslots []int) (err error) {
	if len(keyslots) != 1 {
		return fmt.Errorf("%d key slots, not one: %w", len(keyslots), errUnsupported)
	}
	t.Keyslot = keyslots[0]

	f := fields{object: o, known: []string{"type", "keyslots"}}
	f.require("tpm2-pcrs", "tpm2-blob", "tpm2-policy-hash")
	t.PCRs = f.pcrs("tpm2-pcrs")                                             // 248
	blobs := f.shards("tpm2-blob", base64.StdEncoding.Strict().DecodeString) // 248, a list 257
	hashes := f.shards("tpm2-policy-hash", hex.DecodeString)                 // 248, a list 257
	bank := field[string](&f, "tpm2-pcr-bank")                               // 250
	primary := field[string](&f, "tpm2-primary-alg")                         // 250
	t.PIN = field[bool](&f, "tpm2-pin")                                      // 251
	t.SignedPCRs = f.pcrs("tpm2_pubkey_pcrs")                                // 252
	t.PublicKey = field[[]byte](&f, "tpm2_pubkey")                           // 252
	field[[]byte](&f, "tpm2_salt")                                           // 253
	srk := field[[]byte](&f, "tpm2_srk")                                     // 254
	t.PCRLock = field[bool](&f, "tpm2_pcrlock")                              // 255
	nvHandle := field[[]byte](&f, "tpm2_pcrlock_nv")                         // 256
	t.PolicyRef = field[string](&f, "tpm2_pubkey_ref")                       // 262
	for _, name := range []string{"memcost", "iterations", "lanes"} {
		field[uint32](&f, "tpm2_argon2id_"+name) // 262
	}
	if err := f.done(); err != nil {
		return err
	}

	if bank != "" {
		if t.Bank, err = measure.ParseBank(strings.ToLower(bank)); err != nil {
			return fmt.Errorf("tpm2-pcr-bank: %w: %w", err, errUnsupported)
		}
	}
	if !slices.Contains([]string{"", "ecc", "rsa"}, strings.ToLower(primary)) {
		return fmt.Errorf("tpm2-primary-alg %.20q: %w", primary, errUnsupported)
	}
	if len(t.SignedPCRs) > 0 {
		if t.signers, err = parseSigners(t.PublicKey); err != nil {
			return fmt.Errorf("tpm2_pubkey: %w", err)
		}
	}
	if srk != nil {
		if t.SRK, t.SRKName, err = parseKeyHandle(srk); err != nil {
			return fmt.Errorf("tpm2_srk: %w", err)
		}
	}
	if t.PCRLock && nvHandle != nil {
		if t.nvName, err = parseNVHandle(nvHandle); err != nil {
			return fmt.Errorf("tpm2_pcrlock_nv: %w", err)
		}
	}
	return t.parseShards(blobs, hashes)
}

// parseShards parses what is sealed. Only a secret under a signed policy and
// under pcrlock's is in two shards, in this order.
func (t *Token) parseShards(blobs, hashes [][]byte) error {
	shards := 1
	if len(t.SignedPCRs) > 0 && t.PCRLock {
		shards = 2
	}
	if len(blobs) != shards || len(hashes) != shards {
		return fmt.Errorf("%d sealed objects and %d policy hashes, not %d of each: %w", len(blobs), len(hashes), shards, errUnsupported)
	}
	for i := range shards {
		hash, err := tpm2.ParseDigest(hashes[i])
		if err != nil {
			return fmt.Errorf("tpm2-policy-hash: %w", err)
		}
		sealed, err := parseBlob(blobs[i])
		if err != nil {
			return fmt.Errorf("tpm2-blob: %w", err)
		}
		t.hashes, t.sealed = append(t.hashes, hash), append(t.sealed, sealed)
	}
	return nil
}

// signers are the keys that sign the policies of a token.
type signers struct {
	// names are the Names that the key may have in the policy.
	names [][]byte
	// key is nil if it is of a kind that systemd cannot verify signatures with.
	key *rsa.PublicKey
}

// parseSigners parses a public key in PEM. What is around the first PEM block is
// passed over, as OpenSSL does.
func parseSigners(data []byte) (s signers, err error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return s, errors.New("no PEM block")
	}
	if block.Type != "PUBLIC KEY" {
		return s, fmt.Errorf("PEM block %.40q: %w", block.Type, errUnsupported)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return s, fmt.Errorf("%.200s", err.Error())
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() > maxRSABits || int64(key.E) > math.MaxUint32 {
			return s, fmt.Errorf("RSA key of %d bits with the exponent %d: %w", key.N.BitLen(), key.E, errUnsupported)
		}
		s.key = key
		s.names = append(s.names, tpm2.RSAKeyName(key, uint32(key.E)))
		if key.E == 65537 {
			// systemd 255.0 to 255.2 sealed to it; others try it when the first does not fit
			s.names = append(s.names, tpm2.RSAKeyName(key, 0))
		}
		return s, nil
	case *ecdsa.PublicKey:
		name, err := tpm2.ECCKeyName(key)
		s.names = append(s.names, name)
		return s, err
	}
	return s, fmt.Errorf("a key that is neither RSA nor EC: %w", errUnsupported)
}

// maxRSABits is the size of the largest RSA key that tpm2-tss has room for (TPM2_MAX_RSA_KEY_BYTES).
const maxRSABits = 4096

// fields are those of a token, with the first that is wrong.
type fields struct {
	object object
	known  []string
	err    error
}

func (f *fields) fail(name string, err error) {
	if f.err == nil {
		f.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (f *fields) require(names ...string) {
	for _, name := range names {
		if _, ok := f.object[name]; !ok && f.err == nil {
			f.err = fmt.Errorf("no %s", name)
		}
	}
}

// field returns a field, zero if it is not there. Bytes are in base64.
func field[T any](f *fields, name string) (v T) {
	f.known = append(f.known, name)
	if _, ok := f.object[name]; ok && f.err == nil {
		f.err = f.object.get(name, &v)
	}
	return v
}

// pcrs returns a list of PCRs, ascending and each once.
func (f *fields) pcrs(name string) []measure.PCR {
	list := field[[]measure.PCR](f, name)
	for _, n := range list {
		if n < 0 || n > 23 {
			f.fail(name, fmt.Errorf("PCR %d: there are PCR 0 to 23", n))
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// shards returns the values of a text or a list of texts.
func (f *fields) shards(name string, decode func(string) ([]byte, error)) (values [][]byte) {
	var texts []string
	if raw := f.object[name]; len(raw) > 0 && raw[0] == '[' {
		texts = field[[]string](f, name)
	} else {
		texts = []string{field[string](f, name)}
	}
	for _, text := range texts {
		value, err := decode(text)
		if err != nil {
			f.fail(name, err)
		}
		values = append(values, value)
	}
	return values
}

// done returns the first thing that is wrong, and else the first field that no
// one has asked for.
func (f *fields) done() error {
	if f.err != nil {
		return f.err
	}
	for _, name := range f.object.keys() {
		if !slices.Contains(f.known, name) {
			return fmt.Errorf("field %.40q: %w", name, errUnsupported)
		}
	}
	return nil
}
