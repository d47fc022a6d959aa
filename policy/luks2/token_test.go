package luks2_test

// What tokens are accepted, and with which words others are refused. It does
// not prove that systemd refuses the same ones: it passes over fields that it
// does not know, and a token that has one cannot be judged here.

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/luks2"
)

func TestParseTokens(t *testing.T) {
	t.Parallel()
	none := string(recorded(t).Tokens["none"].Token)
	pin := string(recorded(t).Tokens["pin"].Token)
	tokens, err := luks2.ParseTokens([]byte(`{"10": ` + pin + `, "2": {"type": "other", "keyslots": [], "what": [1, {}]}, "0": ` + none + `}`))
	if err != nil || len(tokens) != 3 || tokens[0].Number != 0 || tokens[1].Number != 2 || tokens[2].Number != 10 {
		t.Fatal(tokens, err)
	}
	if tokens[0].PIN || !tokens[2].PIN || tokens[1].Type != "other" {
		t.Errorf("%+v", tokens)
	}
	alone, err := luks2.ParseTokens([]byte("\n" + pin + "\n"))
	if err != nil || len(alone) != 1 || alone[0].Number != -1 {
		t.Fatal(alone, err)
	}
	alone[0].Number = 10
	if !reflect.DeepEqual(alone[0], tokens[2]) {
		t.Errorf("%+v, want %+v", alone[0], tokens[2])
	}

	for _, test := range []struct{ name, json, want string }{
		{"empty", "", "LUKS2 tokens: not JSON: unexpected EOF"},
		{"nothing", "{}", "LUKS2 tokens: there is none"},
		{"null", "null", "LUKS2 tokens: not an object"},
		{"a list", "[" + none + "]", "LUKS2 tokens: not an object"},
		{"a text", `"systemd-tpm2"`, "LUKS2 tokens: not an object"},
		{"not JSON", "{type: x}", "LUKS2 tokens: not JSON: invalid character 't'"},
		{"cut off", none[:len(none)-1], "LUKS2 tokens: not JSON: unexpected EOF"},
		{"cut off in a text", none[:len(none)/2], "LUKS2 tokens: not JSON: unexpected EOF"},
		{"two", none + none, "LUKS2 tokens: something behind the object"},
		{"garbage behind", none + "x", "LUKS2 tokens: something behind the object"},
		{"comma behind", strings.TrimSuffix(none, "}") + ",}", "LUKS2 tokens: not JSON: invalid character '}'"},
		{"not UTF-8", "{\"type\": \"\xff\"}", "LUKS2 tokens: not UTF-8"},
		{"NUL", none + "\x00", "LUKS2 tokens: something behind the object"},
		{"a field twice", strings.TrimSuffix(none, "}") + `,"type":"systemd-tpm2"}`, `LUKS2 tokens: "type" twice`},
		{"a long field twice", `{"` + strings.Repeat("x", 1000) + `":1,"` + strings.Repeat("x", 1000) + `":1}`, `LUKS2 tokens: "` + strings.Repeat("x", 40) + `" twice`},
		{"a token twice", `{"0":` + none + `,"0":` + none + `}`, `LUKS2 tokens: "0" twice`},
		{"a name", `{"first":` + none + `}`, `LUKS2 tokens: token "first": not a number from 0 to 31`},
		{"token 32", `{"32":` + none + `}`, `LUKS2 tokens: token "32": not a number from 0 to 31`},
		{"token 00", `{"00":` + none + `}`, `LUKS2 tokens: token "00": not a number from 0 to 31`},
		{"token -1", `{"-1":` + none + `}`, `LUKS2 tokens: token "-1": not a number from 0 to 31`},
		{"not a token", `{"0":1}`, "LUKS2 tokens: 0: not an object"},
		{"no type", `{"0":{"keyslots":[]}}`, "LUKS2 tokens: 0: no type"},
		{"type of another case", `{"0":{"Type":"systemd-tpm2","keyslots":[]}}`, "LUKS2 tokens: 0: no type"},
		{"type is a number", `{"type":1}`, "LUKS2 token: type: the number 1 is not expected here"},
		{"type is null", `{"type":null}`, "LUKS2 token: type: null is not expected here"},
		{"no keyslots", `{"type":"x"}`, "LUKS2 token: no keyslots"},
		{"keyslots is a text", `{"type":"x","keyslots":"1"}`, "LUKS2 token: keyslots: a text is not expected here"},
		{"keyslots of numbers", `{"type":"x","keyslots":[1]}`, "LUKS2 token: keyslots: such a list is not expected here"},
		{"key slot 32", `{"type":"x","keyslots":["32"]}`, `LUKS2 token: keyslots: key slot "32": not a number from 0 to 31`},
		{"too large", `{"type":"` + strings.Repeat("x", 4<<20) + `"}`, "LUKS2 tokens: more than 4194304 bytes"},
	} {
		_, err := luks2.ParseTokens([]byte(test.json))
		// encoding/json says more about the character
		if got := fmt.Sprint(err); got != test.want && (!strings.Contains(got, "invalid character") || !strings.HasPrefix(got, test.want)) {
			t.Errorf("%s:\n got %.300s\nwant %s", test.name, got, test.want)
		}
	}
}

// b64 and unb64 are base64 in tokens.
func b64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func unb64(t testing.TB, token, field string) []byte {
	fields := map[string]any{}
	if err := json.Unmarshal(recorded(t).Tokens[token].Token, &fields); err != nil {
		t.Fatal(err)
	}
	data, err := base64.StdEncoding.DecodeString(fields[field].(string))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rsaKey returns a public key with a modulus that is no product of primes.
func rsaKey(t testing.TB, bits, exponent int) []byte {
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(bits)), big.NewInt(1)), E: exponent})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestTokenErr: what is not understood is told, by name, and is never a no.
func TestTokenErr(t *testing.T) {
	t.Parallel()
	blob, nv := unb64(t, "literal7", "tpm2-blob"), unb64(t, "pcrlock7", "tpm2_pcrlock_nv")
	srk := unb64(t, "pin7", "tpm2_srk")
	const public = 2 + 0x9e + 2 // the offset of TPMT_PUBLIC in a blob
	changed := func(data []byte, at int, value byte) string {
		data = bytes.Clone(data)
		data[at] = value
		return b64(data)
	}
	pem := func(kind string, der []byte) string {
		return b64([]byte("-----BEGIN " + kind + "-----\n" + b64(der) + "\n-----END " + kind + "-----\n"))
	}
	type edits = map[string]any
	for _, test := range []struct {
		name, token string
		edits       edits
		want        string
	}{
		{"unknown field", "literal7", edits{"tpm2_new": true}, `field "tpm2_new": not supported`},
		{"fields of a systemd to come", "pin7", edits{"fido2-credential": "AAAA", "fido2-rp": "x"}, `field "fido2-credential": not supported`},
		{"a field of another case", "literal7", edits{"TPM2-PIN": true}, `field "TPM2-PIN": not supported`},
		{"a long field", "literal7", edits{strings.Repeat("x", 100): 1}, `field "` + strings.Repeat("x", 40) + `": not supported`},

		{"no key slot", "literal7", edits{"keyslots": []string{}}, "0 key slots, not one: not supported"},
		{"two key slots", "literal7", edits{"keyslots": []string{"1", "2"}}, "2 key slots, not one: not supported"},

		{"no tpm2-pcrs", "literal7", edits{"tpm2-pcrs": nil}, "no tpm2-pcrs"},
		{"tpm2-pcrs is a number", "literal7", edits{"tpm2-pcrs": 7}, "tpm2-pcrs: the number 7 is not expected here"},
		{"tpm2-pcrs of texts", "literal7", edits{"tpm2-pcrs": []string{"7"}}, "tpm2-pcrs: such a list is not expected here"},
		{"a fraction of a PCR", "literal7", edits{"tpm2-pcrs": []float64{7.5}}, "tpm2-pcrs: such a list is not expected here"},
		{"PCR 24", "literal7", edits{"tpm2-pcrs": []int{7, 24}}, "tpm2-pcrs: PCR 24: there are PCR 0 to 23"},
		{"PCR -1", "literal7", edits{"tpm2-pcrs": []int{-1}}, "tpm2-pcrs: PCR -1: there are PCR 0 to 23"},
		{"PCR 2^64", "literal7", edits{"tpm2-pcrs": []float64{1 << 64}}, "tpm2-pcrs: such a list is not expected here"},
		{"signed PCR 24", "signed7", edits{"tpm2_pubkey_pcrs": []int{24}}, "tpm2_pubkey_pcrs: PCR 24: there are PCR 0 to 23"},

		{"bank", "literal7", edits{"tpm2-pcr-bank": "sm3_256"}, `tpm2-pcr-bank: bank "sm3_256": unknown (known: sha1 sha256 sha384 sha512): not supported`},
		{"bank is a number", "literal7", edits{"tpm2-pcr-bank": 11}, "tpm2-pcr-bank: the number 11 is not expected here"},
		{"primary algorithm", "literal7", edits{"tpm2-primary-alg": "kyber"}, `tpm2-primary-alg "kyber": not supported`},
		{"primary algorithm is a list", "literal7", edits{"tpm2-primary-alg": []int{}}, "tpm2-primary-alg: such a list is not expected here"},
		{"tpm2-pin is a text", "literal7", edits{"tpm2-pin": "true"}, "tpm2-pin: a text is not expected here"},
		{"tpm2_pcrlock is a number", "literal7", edits{"tpm2_pcrlock": 1}, "tpm2_pcrlock: the number 1 is not expected here"},
		{"tpm2_salt is not base64", "pin7", edits{"tpm2_salt": "!"}, "tpm2_salt: a text is not expected here"},
		{"tpm2_srk is an object", "pin7", edits{"tpm2_srk": edits{}}, "tpm2_srk: an object is not expected here"},
		{"tpm2_srk is no handle", "pin7", edits{"tpm2_srk": b64([]byte("srk"))}, "tpm2_srk: not a handle of a key: its sizes do not add up"},
		{"tpm2_srk is empty", "pin7", edits{"tpm2_srk": ""}, "tpm2_srk: not a handle of a key: its sizes do not add up"},
		{"tpm2_srk of an NV index", "pcrlock7", edits{"tpm2_srk": b64(nv)}, "tpm2_srk: resource of kind 2: not supported"},
		{"tpm2_srk by another name", "pin7", edits{"tpm2_srk": changed(srk, 10, srk[10]^1)}, "tpm2_srk: name X, but that of its public area is X"},
		{"tpm2_srk cut off", "pin7", edits{"tpm2_srk": b64(srk[:len(srk)-1])}, "tpm2_srk: not a handle of a key: its sizes do not add up"},
		{"argon2id memory is a text", "pin7", edits{"tpm2_argon2id_memcost": "1"}, "tpm2_argon2id_memcost: a text is not expected here"},
		{"argon2id lanes below zero", "pin7", edits{"tpm2_argon2id_lanes": -1}, "tpm2_argon2id_lanes: the number -1 is not expected here"},
		{"tpm2_pubkey_ref is a list", "signedref", edits{"tpm2_pubkey_ref": []string{"initrd"}}, "tpm2_pubkey_ref: such a list is not expected here"},

		{"no tpm2-policy-hash", "literal7", edits{"tpm2-policy-hash": nil}, "no tpm2-policy-hash"},
		{"hash is a number", "literal7", edits{"tpm2-policy-hash": 0}, "tpm2-policy-hash: the number 0 is not expected here"},
		{"hash is not hexadecimal", "literal7", edits{"tpm2-policy-hash": strings.Repeat("0g", 32)}, "tpm2-policy-hash: encoding/hex: invalid byte: U+0067 'g'"},
		{"hash is empty", "literal7", edits{"tpm2-policy-hash": ""}, "tpm2-policy-hash: policy digest of 0 bytes, not 32"},
		{"hash of sha1", "literal7", edits{"tpm2-policy-hash": strings.Repeat("00", 20)}, "tpm2-policy-hash: policy digest of 20 bytes, not 32"},
		{"a hash too many", "literal7", edits{"tpm2-policy-hash": []string{"", ""}}, "1 sealed objects and 2 policy hashes, not 1 of each: not supported"},
		{"no hash", "literal7", edits{"tpm2-policy-hash": []string{}}, "1 sealed objects and 0 policy hashes, not 1 of each: not supported"},
		{"hashes of numbers", "literal7", edits{"tpm2-policy-hash": []int{1}}, "tpm2-policy-hash: such a list is not expected here"},
		{"a hash too few", "sharded", edits{"tpm2-policy-hash": strings.Repeat("00", 32)}, "2 sealed objects and 1 policy hashes, not 2 of each: not supported"},
		{"signed and pcrlock in one", "sharded", edits{"tpm2-policy-hash": strings.Repeat("00", 32), "tpm2-blob": b64(blob)}, "1 sealed objects and 1 policy hashes, not 2 of each: not supported"},

		{"no tpm2-blob", "literal7", edits{"tpm2-blob": nil}, "no tpm2-blob"},
		{"blob is not base64", "literal7", edits{"tpm2-blob": "!"}, "tpm2-blob: illegal base64 data at input byte 0"},
		{"blob without padding", "literal7", edits{"tpm2-blob": "AAA"}, "tpm2-blob: illegal base64 data at input byte 0"},
		{"blob is empty", "literal7", edits{"tpm2-blob": ""}, "tpm2-blob: not a sealed object: its sizes do not add up"},
		{"blob is cut off", "literal7", edits{"tpm2-blob": b64(blob[:len(blob)-1])}, "tpm2-blob: not a sealed object: its sizes do not add up"},
		{"blob has a byte more", "literal7", edits{"tpm2-blob": b64(append(blob[:len(blob):len(blob)], 0))}, "tpm2-blob: not a sealed object: its sizes do not add up"},
		{"blob has four more", "literal7", edits{"tpm2-blob": b64(append(blob[:len(blob):len(blob)], 0, 1, 0, 0))}, "tpm2-blob: not a sealed object: its sizes do not add up"},
		{"private is larger than all", "literal7", edits{"tpm2-blob": changed(blob, 0, 0xff)}, "tpm2-blob: not a sealed object: its sizes do not add up"},
		{"policy is larger than public", "literal7", edits{"tpm2-blob": changed(blob, public+8, 0xff)}, "tpm2-blob: public area: its sizes do not add up"},
		{"unique is shorter", "literal7", edits{"tpm2-blob": changed(blob, public+8+2+32+2+1, 31)}, "tpm2-blob: public area: its sizes do not add up"},
		{"sealed to a key", "literal7", edits{"tpm2-blob": changed(blob, public+1, 0x01)}, "tpm2-blob: public area: type 0x0001: not supported"},
		{"name of sha384", "literal7", edits{"tpm2-blob": changed(blob, public+3, 0x0c)}, "tpm2-blob: public area: name algorithm 0x000c: not supported"},
		{"scheme", "literal7", edits{"tpm2-blob": changed(blob, public+8+2+32+1, 0x05)}, "tpm2-blob: public area: scheme 0x0005: not supported"},
		{"no policy", "literal7", edits{"tpm2-blob": b64(slices.Concat([]byte{0, 0, 0, 14}, blob[public:public+8], []byte{0, 0, 0, 0x10, 0, 0}))}, "tpm2-blob: policy digest of 0 bytes, not 32"},

		{"no key", "signed7", edits{"tpm2_pubkey": nil}, "tpm2_pubkey: no PEM block"},
		{"key is not base64", "signed7", edits{"tpm2_pubkey": "-----BEGIN PUBLIC KEY-----"}, "tpm2_pubkey: a text is not expected here"},
		{"key is not PEM", "signed7", edits{"tpm2_pubkey": b64([]byte("key"))}, "tpm2_pubkey: no PEM block"},
		{"a certificate", "signed7", edits{"tpm2_pubkey": pem("CERTIFICATE", []byte{0x30, 0})}, `tpm2_pubkey: PEM block "CERTIFICATE": not supported`},
		{"a private key", "signed7", edits{"tpm2_pubkey": pem("PRIVATE KEY", []byte{0x30, 0})}, `tpm2_pubkey: PEM block "PRIVATE KEY": not supported`},
		{"key is not DER", "signed7", edits{"tpm2_pubkey": pem("PUBLIC KEY", []byte{0x30})}, "tpm2_pubkey: asn1: syntax error: truncated tag or length"},
		// RFC 8410, 4: an Ed25519 key
		{"another key", "signed7", edits{"tpm2_pubkey": pem("PUBLIC KEY", slices.Concat([]byte{0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0}, make([]byte, 32)))},
			"tpm2_pubkey: a key that is neither RSA nor EC: not supported"},

		{"a key too large", "signed7", edits{"tpm2_pubkey": pem("PUBLIC KEY", rsaKey(t, 4104, 65537))}, "tpm2_pubkey: RSA key of 4104 bits with the exponent 65537: not supported"},

		{"NV handle is not base64", "pcrlock7", edits{"tpm2_pcrlock_nv": "?"}, "tpm2_pcrlock_nv: a text is not expected here"},
		{"NV handle is empty", "pcrlock7", edits{"tpm2_pcrlock_nv": ""}, "tpm2_pcrlock_nv: not a handle of an NV index: its sizes do not add up"},
		{"NV handle is cut off", "pcrlock7", edits{"tpm2_pcrlock_nv": b64(nv[:len(nv)-1])}, "tpm2_pcrlock_nv: not a handle of an NV index: its sizes do not add up"},
		{"NV handle is that of a key", "pcrlock7", edits{"tpm2_pcrlock_nv": changed(nv, 4+2+34+3, 1)}, "tpm2_pcrlock_nv: resource of kind 1: not supported"},
		{"another name", "pcrlock7", edits{"tpm2_pcrlock_nv": changed(nv, 4+2, 1)}, "tpm2_pcrlock_nv: name X, but that of its public area is X"},
		{"another public area", "pcrlock7", edits{"tpm2_pcrlock_nv": changed(nv, len(nv)-1, 0xff)}, "tpm2_pcrlock_nv: name X, but that of its public area is X"},
		{"name of another hash", "pcrlock7", edits{"tpm2_pcrlock_nv": changed(nv, 4+2+34+4+2+5, 0x12)}, "tpm2_pcrlock_nv: NV public area: name algorithm alg_0x0012: unknown: cannot tell"},
	} {
		tokens, err := luks2.ParseTokens(edit(t, test.token, test.edits))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		tok := tokens[0]
		err = tok.Policy(luks2.Sources{}).Check(recorded(t).States["F"])
		if got := digests.ReplaceAllString(fmt.Sprint(err), "X"); got != test.want+": cannot tell" || answer(err) != "cannot tell" {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
		if want := (&luks2.Token{Number: -1, Type: luks2.TokenType, Err: tok.Err}); !reflect.DeepEqual(tok, want) {
			t.Errorf("%s: %+v", test.name, tok)
		}
	}
	// a null is not what is not there
	for field := range map[string]bool{"tpm2-pcrs": true, "tpm2-blob": true, "tpm2-policy-hash": true, "tpm2-pcr-bank": true, "tpm2-pin": true, "tpm2_srk": true} {
		data := edit(t, "pin7", map[string]any{field: json.RawMessage("null")})
		tokens, err := luks2.ParseTokens(data)
		if err != nil || fmt.Sprint(tokens[0].Err) != field+": null is not expected here: cannot tell" {
			t.Errorf("%s: %v, %v", field, err, tokens[0].Err)
		}
	}
}

// TestTokenAccepts: what is written in another way and means the same.
func TestTokenAccepts(t *testing.T) {
	t.Parallel()
	r := recorded(t)
	for _, test := range []struct {
		name, token string
		edits       map[string]any
	}{
		{"bank and algorithm in upper case", "literal", map[string]any{"tpm2-pcr-bank": "SHA256", "tpm2-primary-alg": "ECC"}},
		{"RSA as the primary", "literal", map[string]any{"tpm2-primary-alg": "rsa"}},
		{"PCRs in another order and twice", "literal", map[string]any{"tpm2-pcrs": []int{11, 7, 11}}},
		{"a list of one", "literal", map[string]any{"tpm2-blob": []string{b64(unb64(t, "literal", "tpm2-blob"))}}},
		{"no PIN, no pcrlock", "literal", map[string]any{"tpm2-pin": false, "tpm2_pcrlock": false}},
		{"a key that signs nothing", "literal", map[string]any{"tpm2_pubkey": b64([]byte("no key"))}},
		{"an NV index that nothing is in", "literal", map[string]any{"tpm2_pcrlock_nv": b64([]byte("no handle"))}},
	} {
		tok := token(t, edit(t, test.token, test.edits))
		if err := tok.Policy(luks2.Sources{}).Check(r.States["A"]); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if got := answer(tok.Policy(luks2.Sources{}).Check(r.States["B"])); got != "no: pcr-mismatch" {
			t.Errorf("%s: %s", test.name, got)
		}
	}
}

// FuzzToken: a token is understood, or cannot be told; what is understood is the
// same again, and its verdict does not depend on PCRs that it does not name.
func FuzzToken(f *testing.F) {
	r := recorded(f)
	for _, recorded := range r.Tokens {
		f.Add([]byte(recorded.Token))
	}
	f.Add([]byte(`{"0": {"type": "x", "keyslots": []}, "1": {"type": "systemd-tpm2", "keyslots": ["1"]}}`))
	src := sources(f, "live", "signature.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		tokens, err := luks2.ParseTokens(data)
		if err != nil {
			if len(err.Error()) > 600 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		again, err := luks2.ParseTokens(append([]byte("\n"), data...))
		if err != nil || len(again) != len(tokens) {
			t.Fatalf("not the same again: %v", err)
		}
		for _, tok := range tokens {
			for _, pcrs := range r.States {
				err := tok.Policy(src).Check(pcrs)
				if (tok.Type != luks2.TokenType || tok.Err != nil) && !errors.Is(err, policy.ErrCannotTell) {
					t.Fatalf("%v: %v", tok.Err, err)
				}
				changed := pcrs.Clone()
				for n := range measure.PCR(24) {
					if !slices.Contains(tok.PCRs, n) && !slices.Contains(tok.SignedPCRs, n) && !tok.PCRLock {
						for _, b := range measure.Banks() {
							delete(changed[b], n)
						}
					}
				}
				if got, want := answer(tok.Policy(src).Check(changed)), answer(err); got != want {
					t.Fatalf("%s, but %s with fewer PCRs", got, want)
				}
			}
		}
	})
}
