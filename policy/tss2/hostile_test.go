package tss2_test

// What is refused, and with which words, and what is no. It does not prove that
// encoding/asn1 refuses all that is not DER.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tpm2"
	"github.com/mkexec/mkexec/policy/tss2"
)

// tlv returns an element in DER.
func tlv(tag byte, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	switch n := len(content); {
	case n < 0x80:
		return slices.Concat([]byte{tag, byte(n)}, content)
	case n < 0x100:
		return slices.Concat([]byte{tag, 0x81, byte(n)}, content)
	default:
		return slices.Concat([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content)
	}
}

// Tags. A context-specific one, explicit, is 0xA0 and its number.
const (
	boolean, integer, octets, oid, utf8String, sequence = 0x01, 0x02, 0x04, 0x06, 0x0C, 0x30
)

func sealed() []byte { return tlv(oid, []byte{0x67, 0x81, 0x05, 10, 1, 5}) }

// sized returns a TPM2B.
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// publicArea returns a TPM2B_PUBLIC of sealed data.
func publicArea(nameAlg uint16, attributes uint32, authPolicy []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 8)
	b = binary.BigEndian.AppendUint16(b, nameAlg)
	b = binary.BigEndian.AppendUint32(b, attributes)
	b = append(b, sized(authPolicy)...)
	return sized(append(b, 0, 0x10, 0, 0))
}

// end returns the elements that end a file, for an object with this authPolicy.
func end(authPolicy []byte) []byte {
	return slices.Concat(tlv(integer, []byte{0x40, 0, 0, 1}), tlv(octets, publicArea(0x0B, 0x12, authPolicy)), tlv(octets, sized(nil)))
}

// command returns a TPMPolicy.
func command(code uint16, parameters []byte) []byte {
	return tlv(sequence, tlv(0xA0, tlv(integer, binary.BigEndian.AppendUint16(nil, code))), tlv(0xA1, tlv(octets, parameters)))
}

// selection returns a TPML_PCR_SELECTION.
func selection(banks ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(banks)))
	for _, bank := range banks {
		b = append(binary.BigEndian.AppendUint16(b, bank), 3, 0x80, 0x08, 0) // PCR 7 and 11
	}
	return b
}

// file returns a file with these commands for an object with this authPolicy.
func file(authPolicy []byte, commands ...[]byte) []byte {
	return tlv(sequence, sealed(), tlv(0xA1, tlv(sequence, commands...)), end(authPolicy))
}

func armor(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := file(make([]byte, 32), command(0x16B, nil))
	if _, err := tss2.Parse(good); err != nil {
		t.Fatal(err)
	}
	if _, err := tss2.Parse(armor(good)); err != nil {
		t.Fatal(err)
	}
	text := string(armor(good))
	// with is a file of these optional elements
	with := func(elements ...[]byte) []byte {
		return tlv(sequence, sealed(), slices.Concat(elements...), end(nil))
	}
	// ending is one with these elements at its end
	ending := func(elements ...[]byte) []byte { return tlv(sequence, sealed(), slices.Concat(elements...)) }
	parent, private := tlv(integer, []byte{0}), tlv(octets, sized(nil))
	public := func(b []byte) []byte { return ending(parent, tlv(octets, b), private) }
	policies := func(commands ...[]byte) []byte { return with(tlv(0xA1, tlv(sequence, commands...))) }
	area := publicArea(0x0B, 0x12, make([]byte, 32))
	const notPublic = " bytes that are no TPM2B_PUBLIC"
	for _, test := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "neither DER nor a PEM block"},
		{"text", []byte("a key\n"), "neither DER nor a PEM block"},
		{"too large", bytes.Repeat([]byte("\n"), tss2.MaxSize+1), "more than 65536 bytes"},
		{"PEM cut", []byte(text[:len(text)-10]), "neither DER nor a PEM block"},
		{"PEM of the old type", []byte(strings.ReplaceAll(text, "TSS2 PRIVATE KEY", "TSS2 KEY BLOB")), `PEM block "TSS2 KEY BLOB": not supported (supported: TSS2 PRIVATE KEY): cannot tell`},
		{"PEM of a key", []byte(strings.ReplaceAll(text, "TSS2 ", "")), `PEM block "PRIVATE KEY": not supported (supported: TSS2 PRIVATE KEY): cannot tell`},
		{"PEM of nothing", armor(nil), "asn1: syntax error: sequence truncated"},
		{"cut", good[:len(good)-1], "asn1: syntax error: data truncated"},
		{"one byte", good[:1], "asn1: syntax error: truncated tag or length"},
		{"huge", []byte{sequence, 0x84, 0x7F, 0xFF, 0xFF, 0xFF}, "asn1: syntax error: data truncated"},
		{"more behind", append(good, 0), "1 bytes too many"},
		{"of no elements", tlv(sequence), "no parent, pubkey, privkey"},
		{"a type", tlv(sequence, sealed()), "no parent, pubkey, privkey"},
		{"a type and one element", tlv(sequence, sealed(), tlv(0xA0, tlv(boolean, []byte{1}))), "no parent, pubkey, privkey"},

		{"type a number", tlv(sequence, parent, end(nil)), "type: not an OBJECT IDENTIFIER"},
		{"type old", tlv(sequence, tlv(oid, []byte{0x67, 0x81, 0x05, 10, 2}), end(nil)), "type: 2.23.133.10.2: not supported: cannot tell"},
		{"type unknown", tlv(sequence, tlv(oid, []byte{0x67, 0x81, 0x05, 10, 1, 6}), end(nil)), "type: 2.23.133.10.1.6: not supported: cannot tell"},
		{"type longer", tlv(sequence, tlv(oid, []byte{0x67, 0x81, 0x05, 10, 1, 5, 1}), end(nil)), "type: 2.23.133.10.1.5.1: not supported: cannot tell"},

		{"unknown element", with(tlv(0xA6, tlv(octets))), "element [6]: not supported: cannot tell"},
		{"elements out of order", with(tlv(0xA5, tlv(boolean, []byte{1})), tlv(0xA0, tlv(boolean, []byte{1}))), "element [0] behind [5]"},
		{"element twice", with(tlv(0xA0, tlv(boolean, []byte{1})), tlv(0xA0, tlv(boolean, []byte{1}))), "element [0] behind [0]"},
		{"element not explicit", with(tlv(0x80, []byte{1})), "emptyAuth: not explicitly tagged"},
		{"element empty", with(tlv(0xA1)), "policy: asn1: syntax error: sequence truncated"},
		{"element of two", with(tlv(0xA0, tlv(boolean, []byte{1}), tlv(boolean, []byte{1}))), "emptyAuth: 3 bytes too many"},
		{"emptyAuth a number", with(tlv(0xA0, parent)), "emptyAuth: not a BOOLEAN"},
		{"emptyAuth 2", with(tlv(0xA0, tlv(boolean, []byte{2}))), "emptyAuth: 02 is no truth value"},
		{"emptyAuth long", with(tlv(0xA0, tlv(boolean, []byte{0, 0}))), "emptyAuth: 0000 is no truth value"},
		{"rsaParent a text", with(tlv(0xA5, tlv(octets))), "rsaParent: not a BOOLEAN"},
		{"description octets", with(tlv(0xA4, tlv(octets))), "description: not a UTF8String"},
		{"description not UTF-8", with(tlv(0xA4, tlv(utf8String, []byte{0xFF}))), "description: not UTF-8"},
		{"secret of sealed data", with(tlv(0xA2, tlv(octets))), "sealed data, but secret is there: true"},
		{"no secret of an importable key", tlv(sequence, tlv(oid, []byte{0x67, 0x81, 0x05, 10, 1, 4}), end(nil)), "importable key, but secret is there: false"},

		{"no command", policies(tlv(sequence)), "policy: command 1: 0 elements, not 2"},
		{"command of one", policies(command(0x16B, nil), tlv(sequence, tlv(0xA0, parent))), "policy: command 2: 1 elements, not 2"},
		{"command of three", policies(tlv(sequence, tlv(0xA0, parent), tlv(0xA1, private), tlv(0xA2, private))), "policy: command 1: 3 elements, not 2"},
		{"command the other way round", policies(tlv(sequence, tlv(0xA1, private), tlv(0xA0, parent))), "policy: command 1: element 1 is not [0]"},
		{"command without tags", policies(tlv(sequence, parent, private)), "policy: command 1: element 1 is not [0]"},
		{"command with implicit tags", policies(tlv(sequence, tlv(0x80, []byte{1}), tlv(0x81, nil))), "policy: command 1: element [0]: not explicitly tagged"},
		{"command code negative", policies(tlv(sequence, tlv(0xA0, tlv(integer, []byte{0x80})), tlv(0xA1, private))), "policy: command 1: -128 is no command code"},
		{"command code large", policies(tlv(sequence, tlv(0xA0, tlv(integer, []byte{1, 0, 0, 0, 0})), tlv(0xA1, private))), "policy: command 1: 4294967296 is no command code"},
		{"command code huge", policies(tlv(sequence, tlv(0xA0, tlv(integer, bytes.Repeat([]byte{1}, 9))), tlv(0xA1, private))), "policy: command 1: asn1: structure error: integer too large"},
		{"authPolicy a number", with(tlv(0xA3, tlv(sequence, parent))), "authPolicy: policy 1: not a SEQUENCE"},
		{"authPolicy empty", with(tlv(0xA3, tlv(sequence, tlv(sequence)))), "authPolicy: policy 1: 0 elements, not 1"},
		{"authPolicy of a name", with(tlv(0xA3, tlv(sequence, tlv(sequence, tlv(0xA0, tlv(utf8String)))))), "authPolicy: policy 1: element 1 is not [1]"},
		{"authPolicy with a bad name", with(tlv(0xA3, tlv(sequence, tlv(sequence, tlv(0xA0, private), tlv(0xA1, tlv(sequence)))))), "authPolicy: policy 1: not a UTF8String"},
		{"authPolicy with a bad command", with(tlv(0xA3, tlv(sequence, tlv(sequence, tlv(0xA1, tlv(sequence, tlv(sequence))))))), "authPolicy: policy 1: command 1: 0 elements, not 2"},

		{"no privkey", ending(parent, tlv(octets, area)), "2 elements behind the optional ones, not parent, pubkey, privkey"},
		{"one more", ending(parent, tlv(octets, area), private, private), "4 elements behind the optional ones, not parent, pubkey, privkey"},
		{"optional one behind", ending(parent, tlv(octets, area), tlv(0xA0, tlv(boolean, []byte{1}))), "privkey: not an OCTET STRING"},
		{"parent large", ending(tlv(integer, []byte{1, 0, 0, 0, 0}), tlv(octets, area), private), "parent: 4294967296 is no handle"},
		{"parent low", ending(tlv(integer, []byte{0xFF, 0x7F, 0xFF, 0xFF, 0xFF}), tlv(octets, area), private), "parent: -2147483649 is no handle"},
		{"public empty", public(nil), "pubkey: 0" + notPublic},
		{"public of a size", public([]byte{0, 0}), "pubkey: 2" + notPublic},
		{"public cut", public(area[:len(area)-1]), "pubkey: 47" + notPublic},
		{"public with more", public(append(area, 0)), "pubkey: 49" + notPublic},
		{"public without policy", public(sized(area[2:10])), "pubkey: 10" + notPublic},
		{"public with a large policy", public(slices.Concat(area[:10], []byte{0, 0xFF}, area[12:])), "pubkey: 48" + notPublic},
		{"public with a short policy", public(publicArea(0x0B, 0, make([]byte, 20))), "pubkey: an authPolicy of 20 bytes, but sha256 has 32"},
		{"public with an unknown name", public(publicArea(0x12, 0, nil)), "pubkey: name algorithm alg_0x0012: not supported: cannot tell"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, err := tss2.Parse(test.file)
			if fmt.Sprint(err) != "TPM key file: "+test.want {
				t.Errorf("\n got %v\nwant TPM key file: %s", err, test.want)
			}
			if k != nil {
				t.Error("and returns a key")
			}
			if errors.Is(err, policy.ErrCannotTell) != strings.HasSuffix(test.want, "cannot tell") {
				t.Error("whether it cannot tell is not told")
			}
		})
	}
}

// TestParseAccepts has what is unusual, but meant.
func TestParseAccepts(t *testing.T) {
	t.Parallel()
	public := tlv(octets, publicArea(0x0B, 0x12, nil))
	private := tlv(octets, sized(nil))
	for _, elements := range [][]byte{
		slices.Concat(tlv(integer, []byte{0x81, 0, 0, 1}), public, private),    // negative
		slices.Concat(tlv(integer, []byte{0, 0x81, 0, 0, 1}), public, private), // the same handle
		slices.Concat(tlv(integer, []byte{0}), public, private),                // tpm2-tss-engine: the default parent
		slices.Concat(tlv(0xA0, tlv(boolean, []byte{0})), tlv(0xA4, tlv(utf8String)), tlv(0xA5, tlv(boolean, []byte{0xFF})), end(nil)),
		slices.Concat(tlv(0xA1, tlv(sequence)), tlv(0xA3, tlv(sequence)), end(nil)),
	} {
		if _, err := tss2.Parse(tlv(sequence, sealed(), elements)); err != nil {
			t.Errorf("%x: %v", elements, err)
		}
	}
	importable := tlv(sequence, tlv(oid, []byte{0x67, 0x81, 0x05, 10, 1, 4}), tlv(0xA2, private), end(nil))
	if k, err := tss2.Parse(importable); err != nil || k.Type != tss2.Importable {
		t.Error(k, err)
	}
	if _, err := tss2.Parse(slices.Concat([]byte("a key:\n"), armor(file(nil)), []byte("and more\n"))); err != nil {
		t.Error(err)
	}
}

// TestCheck has the words for what is no and what cannot be told.
func TestCheck(t *testing.T) {
	t.Parallel()
	pcrs := recorded(t)
	d, err := tpm2.Digest{}.PCR(measure.SHA256, []measure.PCR{7, 11}, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	values := sha256.Sum256(slices.Concat(pcrs[measure.SHA256][7], pcrs[measure.SHA256][11]))
	composite := fmt.Sprintf("%x", values)
	pcr := func(digest []byte, s []byte) []byte { return command(0x17F, slices.Concat(sized(digest), s)) }
	good := pcr(nil, selection(0x0B))
	auth := func(a tpm2.Digest) []byte { return a[:] }
	ones := bytes.Repeat([]byte{1}, 32)
	digests := func(ds ...[]byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(ds)))
		for _, d := range ds {
			b = append(b, sized(d)...)
		}
		return b
	}
	or, err := d.OR(d, tpm2.Digest(ones))
	if err != nil {
		t.Fatal(err)
	}
	const (
		one    = "0101010101010101010101010101010101010101010101010101010101010101"
		notMet = "policy not met: "
	)
	for _, test := range []struct {
		name   string
		file   []byte
		reason policy.Reason // of a no
		want   string        // empty: met
	}{
		{"PolicyPCR", file(auth(d), good), "", ""},
		{"with its digest", file(auth(d), pcr(values[:], selection(0x0B))), "", ""},
		{"in the other order", file(auth(d), command(0x17F, slices.Concat(selection(0x0B), values[:]))), "", ""},
		{"and a password", file(auth(d.AuthValue()), good, command(0x16B, nil)), "", ""},
		{"and a password in clear", file(auth(d.AuthValue()), good, command(0x18C, nil)), "", ""},
		{"or another", file(auth(or), good, command(0x171, digests(d[:], ones))), "", ""},
		{"or another, that no more", file(auth(or.AuthValue()), good, command(0x171, digests(d[:], ones)), command(0x16B, nil)), "", ""},

		{"another policy", file(ones, good), policy.ReasonPCR, notMet + "PCR 7 11 (sha256) as predicted: policy " + d.String() + ", not " + one + ", which it is sealed to"},
		{"another policy, right values", file(ones, pcr(values[:], selection(0x0B))), policy.ReasonPolicy, notMet + "the policy in the file is " + d.String() + ", not " + one + ", which it is sealed to"},
		{"other values", file(auth(d), pcr(ones, selection(0x0B))), policy.ReasonPCR, notMet + "PCR 7 11 (sha256) as predicted: digest of the values " + composite + ", not " + one + ", which it is sealed to"},
		{"other values in the other order", file(auth(d), command(0x17F, slices.Concat(selection(0x0B), ones))), policy.ReasonPCR, notMet + "PCR 7 11 (sha256) as predicted: digest of the values " + composite + ", not " + one + ", which it is sealed to"},
		{"other values, then what is not supported", file(auth(d), pcr(ones, selection(0x0B)), command(0x151, nil)), policy.ReasonPCR, notMet + "PCR 7 11 (sha256) as predicted: digest of the values " + composite + ", not " + one + ", which it is sealed to"},
		{"password not in the policy", file(auth(d), good, command(0x16B, nil)), policy.ReasonPCR, notMet + "PCR 7 11 (sha256) as predicted: policy " + d.AuthValue().String() + ", not " + d.String() + ", which it is sealed to"},
		{"only a password", file(ones, command(0x16B, nil)), policy.ReasonPolicy, notMet + "the policy in the file is " + tpm2.Digest{}.AuthValue().String() + ", not " + one + ", which it is sealed to"},
		{"or others", file(auth(or), good, command(0x171, digests(make([]byte, 32), ones))), policy.ReasonPCR, notMet + "PCRs as predicted: policy " + d.String() + ", which is none of 2 that it is sealed to"},
		{"no policy, no userWithAuth", file(nil), policy.ReasonPolicy, notMet + "sealed data with neither a policy nor userWithAuth: nothing can use it"},

		{"no commands", file(ones), "", "sealed data with a policy, but the file does not say which: cannot tell"},
		{"PCR not predicted", file(auth(d), pcr(nil, selection(0x04))), "", "command 1: PCR 7 (sha1) is not predicted, but the policy names it: cannot tell"},
		{"PolicySecret", file(auth(d), good, command(0x151, nil)), "", "command 2: PolicySecret: not supported: cannot tell"},
		{"PolicyAuthorize", file(auth(d), command(0x16A, nil)), "", "command 1: PolicyAuthorize: not supported: cannot tell"},
		{"unknown command", file(auth(d), command(0x199, nil)), "", "command 1: policy command 0x199: not supported: cannot tell"},
		{"two banks", file(auth(d), pcr(nil, selection(0x0B, 0x0C))), "", "command 1: a PCR selection of 2 banks: not supported (supported: 1): cannot tell"},
		{"two banks in the other order", file(auth(d), command(0x17F, slices.Concat(selection(0x0B, 0x0C), ones))), "", "command 1: a PCR selection of 2 banks: not supported (supported: 1): cannot tell"},
		{"unknown bank", file(auth(d), pcr(nil, selection(0x12))), "", "command 1: bank alg_0x0012: not supported (supported: sha1 sha256 sha384 sha512): cannot tell"},
		{"selection of four bytes", file(auth(d), pcr(nil, []byte{0, 0, 0, 1, 0, 0x0B, 4, 0, 8, 0, 0})), "", "command 1: a PCR selection of 4 bytes: not supported (supported: 3): cannot tell"},
		{"no PCR", file(auth(d), pcr(nil, []byte{0, 0, 0, 1, 0, 0x0B, 3, 0, 0, 0})), "", "command 1: a PCR selection of no PCR: not supported: cannot tell"},
		{"no bank", file(auth(d), pcr(nil, selection())), "", "command 1: a PCR selection of 0 banks"},
		{"no parameters", file(auth(d), command(0x17F, nil)), "", "command 1: no PCR selection"},
		{"selection cut", file(auth(d), command(0x17F, selection(0x0B)[:9])), "", "command 1: no PCR selection"},
		{"digest cut", file(auth(d), command(0x17F, slices.Concat(selection(0x0B), ones[:31]))), "", "command 1: a digest of 31 bytes, not 32"},
		{"selection without digest", file(auth(d), command(0x17F, selection(0x0B))), "", "command 1: a digest of 0 bytes, not 32"},
		{"more behind", file(auth(d), pcr(nil, append(selection(0x0B), 0))), "", "command 1: a PCR selection of 0 banks"},
		{"digest of another hash", file(auth(d), pcr(make([]byte, 20), selection(0x0B))), "", "command 1: a PCR selection of 1310720 banks"},
		{"password with parameters", file(auth(d), command(0x16B, ones)), "", "command 1: 32 bytes of parameters, not 0"},
		{"or one", file(auth(or), good, command(0x171, digests(d[:]))), "", "command 2: policy OR of 1 branches: it takes 2 to 8"},
		{"or a short one", file(auth(or), good, command(0x171, digests(d[:], ones[:20]))), "", "command 2: policy digest of 20 bytes, not 32"},
		{"or nothing", file(auth(or), good, command(0x171, nil)), "", "command 2: 0 bytes that are no list of digests"},
		{"or very many", file(auth(or), good, command(0x171, []byte{0xFF, 0xFF, 0xFF, 0xFF})), "", "command 2: 4 bytes that are no list of digests"},
		{"or more behind", file(auth(or), good, command(0x171, append(digests(d[:], ones), 0))), "", "command 2: 73 bytes that are no list of digests"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, err := tss2.Parse(test.file)
			if err != nil {
				t.Fatal(err)
			}
			err = k.Check(pcrs)
			if got := fmt.Sprint(err); got != test.want && (err != nil || test.want != "") {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
			var no *policy.MismatchError
			if errors.As(err, &no) != (test.reason != "") || no != nil && no.Reason != test.reason {
				t.Errorf("%+v", no)
			}
			if errors.Is(err, policy.ErrCannotTell) != strings.HasSuffix(test.want, "cannot tell") {
				t.Error("whether it cannot tell is not told")
			}
		})
	}

	// userWithAuth: the policy is one way of two
	const userWithAuth = 1 << 6
	other := func(authPolicy []byte, optional ...[]byte) []byte {
		return tlv(sequence, sealed(), slices.Concat(optional...),
			tlv(integer, []byte{0}), tlv(octets, publicArea(0x0B, userWithAuth, authPolicy)), tlv(octets, sized(nil)))
	}
	recipe := tlv(0xA1, tlv(sequence, good))
	for _, test := range []struct {
		name string
		file []byte
		want string
	}{
		{"no policy", other(nil), "<nil>"},
		{"policy that the file does not have", other(ones), "<nil>"},
		{"policy that is met", other(auth(d), recipe), "<nil>"},
		{"policy that is not met", other(ones, recipe), notMet + "PCR 7 11 (sha256) as predicted: policy " + d.String() + ", not " + one + ", which it is sealed to; " +
			"but the sealed data can be used without its policy as well, by userWithAuth: cannot tell"},
	} {
		k, err := tss2.Parse(test.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Check(pcrs); fmt.Sprint(err) != test.want {
			t.Errorf("userWithAuth, %s: %v", test.name, err)
		}
	}
}

// TestEveryByte changes each byte of a file that the verdict rests on.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	block, _ := pem.Decode(read(t, "tpm-order.tpm"))
	der, pcrs := block.Bytes, recorded(t)
	start := bytes.Index(der, []byte{0xA1})
	public := bytes.LastIndex(der, []byte{0x00, 0x08, 0x00, 0x0B}) // type, nameAlg; then attributes, authPolicy
	if start < 0 || public < 0 {
		t.Fatal("not found")
	}
	description := bytes.Index(der, []byte("mkexec test")) - 4
	for i := range der {
		inPolicy := i >= start && i < description
		inPublic := i >= public+2 && i < public+8+2+32
		if !inPolicy && !inPublic || i >= public+4 && i < public+8 {
			continue
		}
		changed := slices.Clone(der)
		changed[i] ^= 1
		k, err := tss2.Parse(changed)
		if err != nil {
			continue
		}
		if k.Check(pcrs) == nil {
			t.Errorf("byte %d changed: met", i)
		}
	}
}

// FuzzParse holds that a verdict is one of three, that a yes of a file with a
// policy is only for the PCRs in it, and that PEM says what DER says.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.tpm")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		block, _ := pem.Decode(read(f, filepath.Base(name)))
		f.Add(block.Bytes)
	}
	f.Add(read(f, "or.tpm"))
	f.Add(file(bytes.Repeat([]byte{1}, 32), command(0x17F, selection(0x0B, 0x0C))))
	pcrs := recorded(f)
	bounded := func(t *testing.T, err error) {
		text := err.Error()
		if len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7F }) {
			t.Errorf("error %q", text)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := tss2.Parse(data)
		if (k == nil) == (err == nil) {
			t.Fatal(k, err)
		}
		if err != nil {
			bounded(t, err)
			return
		}
		verdict := k.Check(pcrs)
		if verdict != nil {
			bounded(t, verdict)
		}
		for _, c := range k.Policy {
			if len(c.String()) > 200 {
				t.Errorf("%q", c)
			}
		}
		if data[0] == sequence {
			again, err := tss2.Parse(armor(data))
			if err != nil || fmt.Sprint(again.Check(pcrs)) != fmt.Sprint(verdict) {
				t.Errorf("in PEM: %v", err)
			}
		}
		// a policy that is met here is not met, or not known to be, without PCRs,
		// unless it has none
		if err := k.Check(measure.PCRs{}); err == nil && verdict != nil {
			t.Errorf("met without PCRs, but with them %v", verdict)
		}
	})
}
