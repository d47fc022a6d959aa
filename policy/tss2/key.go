// Package tss2 reads TPM 2.0 key files, "-----BEGIN TSS2 PRIVATE KEY-----"
// (draft-bottomley-tpm2-keys-00, "ASN.1 Specification for TPM 2.0 Key Files"),
// and tells whether what is sealed in them, or the key, can be used with PCRs as
// they will be. The private part is not looked at.
package tss2

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// MaxSize is the size in bytes above which a file is refused.
const MaxSize = 1 << 16

// A Type says what is in a file.
type Type string

// The types, by their words in the draft.
const (
	Loadable   Type = "loadable key"
	Importable Type = "importable key" // a key, or sealed data, that TPM2_Import takes
	Sealed     Type = "sealed data"
)

// types are the types by the last number of 2.23.133.10.1 (draft, 3.1.1).
var types = map[int]Type{3: Loadable, 4: Importable, 5: Sealed}

// A Key is a file.
type Key struct {
	Type Type
	// EmptyAuth says that no password is needed.
	EmptyAuth bool
	// Policy are the commands that lead to the policy digest of the object, one
	// after the other. Nil if the file does not say.
	Policy []Command
	// AuthPolicies are alternatives to Policy.
	AuthPolicies []AuthPolicy
	// Description is a text for a person, often empty.
	Description string

	// public is of the object: what the TPM goes by.
	public public
}

// An AuthPolicy is an alternative sequence of commands.
type AuthPolicy struct {
	Name   string // for a person, often empty
	Policy []Command
}

// A Command is a TPM policy command.
type Command struct {
	Code       uint32 // TPM_CC
	Parameters []byte
}

// public is the begin of a TPMT_PUBLIC (TPM 2.0 Library Part 2, 12.2.4).
type public struct {
	nameAlg      measure.Bank
	userWithAuth bool // the authValue is enough, the policy need not be satisfied
	authPolicy   []byte
}

// Parse parses a file, PEM or DER. Of a PEM file the first block counts. What is
// not known, such as an optional element that the draft does not have, is an
// error that wraps [policy.ErrCannotTell].
func Parse(data []byte) (*Key, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("TPM key file: more than %d bytes", MaxSize)
	}
	der := data
	if !bytes.HasPrefix(data, []byte{0x30}) { // a SEQUENCE
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, errors.New("TPM key file: neither DER nor a PEM block")
		}
		if block.Type != "TSS2 PRIVATE KEY" {
			return nil, fmt.Errorf("TPM key file: PEM block %.40q: not supported (supported: TSS2 PRIVATE KEY): %w", block.Type, policy.ErrCannotTell)
		}
		der = block.Bytes
	}
	k, err := parse(der)
	if err != nil {
		return nil, fmt.Errorf("TPM key file: %w", err)
	}
	return k, nil
}

// parse parses a TPMKey:
//
//	SEQUENCE { type OBJECT IDENTIFIER, optional elements [0] to [5], parent INTEGER, pubkey OCTET STRING, privkey OCTET STRING }
func parse(der []byte) (*Key, error) {
	all, err := one(der)
	if err != nil {
		return nil, err
	}
	elements, err := sequence(all)
	if err != nil {
		return nil, err
	}
	k := &Key{}
	var secret bool
	last := -1
	for i, e := range elements {
		switch {
		case i == 0:
			if k.Type, err = parseType(e); err != nil {
				return nil, fmt.Errorf("type: %w", err)
			}
		case e.Class == asn1.ClassContextSpecific:
			if e.Tag <= last {
				return nil, fmt.Errorf("element [%d] behind [%d]", e.Tag, last)
			}
			last = e.Tag
			secret = secret || e.Tag == 2
			if err := k.parseOptional(e); err != nil {
				return nil, err
			}
		case len(elements)-i != 3:
			return nil, fmt.Errorf("%d elements behind the optional ones, not parent, pubkey, privkey", len(elements)-i)
		default:
			if secret != (k.Type == Importable) {
				return nil, fmt.Errorf("%s, but secret is there: %t", k.Type, secret)
			}
			if err := k.parseRequired(elements[i], elements[i+1], elements[i+2]); err != nil {
				return nil, err
			}
			return k, nil
		}
	}
	return nil, errors.New("no parent, pubkey, privkey")
}

func parseType(e asn1.RawValue) (Type, error) {
	var oid asn1.ObjectIdentifier
	if err := value(e, asn1.TagOID, &oid); err != nil {
		return "", err
	}
	if n := len(oid) - 1; n == 5 && oid[:n].Equal(asn1.ObjectIdentifier{2, 23, 133, 10, 1}) && types[oid[n]] != "" {
		return types[oid[n]], nil
	}
	return "", fmt.Errorf("%.80s: not supported: %w", oid, policy.ErrCannotTell)
}

// parseOptional parses an element that is explicitly tagged.
func (k *Key) parseOptional(e asn1.RawValue) error {
	names := []string{"emptyAuth", "policy", "secret", "authPolicy", "description", "rsaParent"}
	if e.Tag >= len(names) {
		return fmt.Errorf("element [%d]: not supported: %w", e.Tag, policy.ErrCannotTell)
	}
	inner, err := explicit(e)
	if err == nil {
		switch e.Tag {
		case 0:
			k.EmptyAuth, err = boolean(inner)
		case 1:
			k.Policy, err = parseCommands(inner)
		case 2:
			_, err = octets(inner)
		case 3:
			k.AuthPolicies, err = parseAuthPolicies(inner)
		case 4:
			k.Description, err = utf8String(inner)
		case 5:
			_, err = boolean(inner)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", names[e.Tag], err)
	}
	return nil
}

// parseRequired parses the elements that end a file.
func (k *Key) parseRequired(parent, pubkey, privkey asn1.RawValue) error {
	// a handle; tools with 32-bit integers write a negative number for 0x81……
	var handle int64
	if err := value(parent, asn1.TagInteger, &handle); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	if handle < math.MinInt32 || handle > math.MaxUint32 {
		return fmt.Errorf("parent: %d is no handle", handle)
	}
	b, err := octets(pubkey)
	if err == nil {
		k.public, err = parsePublic(b)
	}
	if err != nil {
		return fmt.Errorf("pubkey: %w", err)
	}
	if _, err := octets(privkey); err != nil {
		return fmt.Errorf("privkey: %w", err)
	}
	return nil
}

func parseCommands(e asn1.RawValue) ([]Command, error) {
	elements, err := sequence(e)
	if err != nil {
		return nil, err
	}
	var commands []Command
	for i, e := range elements {
		c, err := parseCommand(e)
		if err != nil {
			return nil, fmt.Errorf("command %d: %w", i+1, err)
		}
		commands = append(commands, c)
	}
	return commands, nil
}

// parseCommand parses a TPMPolicy:
//
//	SEQUENCE { CommandCode [0] EXPLICIT INTEGER, CommandPolicy [1] EXPLICIT OCTET STRING }
func parseCommand(e asn1.RawValue) (c Command, err error) {
	fields, err := tagged(e, 0, 1)
	if err != nil {
		return c, err
	}
	var code int64
	if err := value(fields[0], asn1.TagInteger, &code); err != nil {
		return c, err
	}
	if code < 0 || code > math.MaxUint32 {
		return c, fmt.Errorf("%d is no command code", code)
	}
	c.Code = uint32(code)
	c.Parameters, err = octets(fields[1])
	return c, err
}

// parseAuthPolicies parses a sequence of TPMAuthPolicy:
//
//	SEQUENCE { Name [0] EXPLICIT UTF8STRING OPTIONAL, Policy [1] EXPLICIT SEQUENCE OF TPMPolicy }
func parseAuthPolicies(e asn1.RawValue) ([]AuthPolicy, error) {
	elements, err := sequence(e)
	if err != nil {
		return nil, err
	}
	var policies []AuthPolicy
	for i, e := range elements {
		var p AuthPolicy
		fields, err := tagged(e, 0, 1)
		if err != nil {
			fields, err = tagged(e, 1)
		} else {
			p.Name, err = utf8String(fields[0])
		}
		if err == nil {
			p.Policy, err = parseCommands(fields[len(fields)-1])
		}
		if err != nil {
			return nil, fmt.Errorf("policy %d: %w", i+1, err)
		}
		policies = append(policies, p)
	}
	return policies, nil
}

// userWithAuth is TPMA_OBJECT_USERWITHAUTH (TPM 2.0 Library Part 2, 8.3).
const userWithAuth = 1 << 6

// parsePublic parses the begin of a TPM2B_PUBLIC. Its parameters and unique are
// of no matter.
func parsePublic(b []byte) (p public, err error) {
	area, rest, ok := tpm2.Sized(b)
	const head = 2 + 2 + 4 // type, nameAlg, objectAttributes
	if !ok || len(rest) > 0 || len(area) < head {
		return p, fmt.Errorf("%d bytes that are no TPM2B_PUBLIC", len(b))
	}
	p.nameAlg = measure.Bank(binary.BigEndian.Uint16(area[2:]))
	p.userWithAuth = binary.BigEndian.Uint32(area[4:])&userWithAuth != 0
	if p.authPolicy, _, ok = tpm2.Sized(area[head:]); !ok {
		return p, fmt.Errorf("%d bytes that are no TPM2B_PUBLIC", len(b))
	}
	if p.nameAlg.Size() == 0 {
		return p, fmt.Errorf("name algorithm %s: not supported: %w", p.nameAlg, policy.ErrCannotTell)
	}
	if n := len(p.authPolicy); n != 0 && n != p.nameAlg.Size() {
		return p, fmt.Errorf("an authPolicy of %d bytes, but %s has %d", n, p.nameAlg, p.nameAlg.Size())
	}
	return p, nil
}

// digest returns the authPolicy as a policy digest, which is of SHA-256.
func (p public) digest() (tpm2.Digest, error) {
	if p.nameAlg != measure.SHA256 {
		return tpm2.Digest{}, fmt.Errorf("a policy of %s: not supported (supported: sha256): %w", p.nameAlg, policy.ErrCannotTell)
	}
	return tpm2.ParseDigest(p.authPolicy)
}

// tags are the names of the tags in a file.
var tags = map[int]string{
	asn1.TagBoolean: "a BOOLEAN", asn1.TagInteger: "an INTEGER", asn1.TagOctetString: "an OCTET STRING", asn1.TagOID: "an OBJECT IDENTIFIER",
	asn1.TagUTF8String: "a UTF8String", asn1.TagSequence: "a SEQUENCE",
}

// is refuses an element that has another tag.
func is(e asn1.RawValue, tag int) error {
	if e.Class != asn1.ClassUniversal || e.Tag != tag || e.IsCompound != (tag == asn1.TagSequence) {
		return fmt.Errorf("not %s", tags[tag])
	}
	return nil
}

// one returns the element that is all of der.
func one(der []byte) (e asn1.RawValue, err error) {
	rest, err := asn1.Unmarshal(der, &e)
	if err != nil {
		return e, fmt.Errorf("%.200s", err)
	}
	if len(rest) > 0 {
		return e, fmt.Errorf("%d bytes too many", len(rest))
	}
	return e, nil
}

// value parses an element that has this tag.
func value(e asn1.RawValue, tag int, v any) error {
	if err := is(e, tag); err != nil {
		return err
	}
	if _, err := asn1.Unmarshal(e.FullBytes, v); err != nil {
		return fmt.Errorf("%.200s", err)
	}
	return nil
}

// sequence returns the elements of a SEQUENCE.
func sequence(e asn1.RawValue) (elements []asn1.RawValue, err error) {
	err = value(e, asn1.TagSequence, &elements)
	return elements, err
}

// explicit returns the element in an explicit tag.
func explicit(e asn1.RawValue) (asn1.RawValue, error) {
	if e.Class != asn1.ClassContextSpecific || !e.IsCompound {
		return asn1.RawValue{}, errors.New("not explicitly tagged")
	}
	return one(e.Bytes)
}

// tagged returns the elements of a SEQUENCE of which each has the explicit tag
// of its place, without the tags.
func tagged(e asn1.RawValue, numbers ...int) ([]asn1.RawValue, error) {
	elements, err := sequence(e)
	if err != nil {
		return nil, err
	}
	if len(elements) != len(numbers) {
		return nil, fmt.Errorf("%d elements, not %d", len(elements), len(numbers))
	}
	for i, e := range elements {
		if e.Class != asn1.ClassContextSpecific || e.Tag != numbers[i] {
			return nil, fmt.Errorf("element %d is not [%d]", i+1, numbers[i])
		}
		if elements[i], err = explicit(e); err != nil {
			return nil, fmt.Errorf("element [%d]: %w", numbers[i], err)
		}
	}
	return elements, nil
}

func octets(e asn1.RawValue) (b []byte, err error) {
	err = value(e, asn1.TagOctetString, &b)
	return b, err
}

// boolean takes 01 for true, as tpm2-tools and tpm2-openssl write it, beside the
// FF of DER.
func boolean(e asn1.RawValue) (bool, error) {
	if err := is(e, asn1.TagBoolean); err != nil {
		return false, err
	}
	if len(e.Bytes) != 1 || !slices.Contains([]byte{0x00, 0x01, 0xFF}, e.Bytes[0]) {
		return false, fmt.Errorf("%.20x is no truth value", e.Bytes)
	}
	return e.Bytes[0] != 0, nil
}

func utf8String(e asn1.RawValue) (string, error) {
	if err := is(e, asn1.TagUTF8String); err != nil {
		return "", err
	}
	if !utf8.Valid(e.Bytes) {
		return "", errors.New("not UTF-8")
	}
	return string(e.Bytes), nil
}
