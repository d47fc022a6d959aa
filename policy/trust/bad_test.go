package trust_test

// Signatures that are malformed, each with its error. They are made from a good
// one by changing its tree of elements; this does not prove that every
// malformed signature is found.

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy/trust"
)

// A node is an element of DER.
type node struct {
	tag      byte
	content  []byte
	children []*node
}

func parseNodes(t testing.TB, b []byte) []*node {
	t.Helper()
	var all []*node
	for len(b) > 0 {
		n := &node{tag: b[0]}
		size, at := int(b[1]), 2
		if size > 0x80 {
			at += size & 0x7f
			size = 0
			for _, c := range b[2:at] {
				size = size<<8 | int(c)
			}
		}
		n.content = b[at : at+size]
		if n.tag&0x20 != 0 {
			n.children = parseNodes(t, n.content)
		}
		all, b = append(all, n), b[at+size:]
	}
	return all
}

func (n *node) encode() []byte {
	content := n.content
	if n.tag&0x20 != 0 {
		content = nil
		for _, c := range n.children {
			content = append(content, c.encode()...)
		}
	}
	return slices.Concat(header(n.tag, len(content)), content)
}

func header(tag byte, size int) []byte {
	switch {
	case size < 0x80:
		return []byte{tag, byte(size)}
	case size < 0x100:
		return []byte{tag, 0x81, byte(size)}
	case size < 0x10000:
		return []byte{tag, 0x82, byte(size >> 8), byte(size)}
	}
	return []byte{tag, 0x83, byte(size >> 16), byte(size >> 8), byte(size)}
}

// at returns the element on a path of indexes.
func (n *node) at(path ...int) *node {
	for _, i := range path {
		n = n.children[i]
	}
	return n
}

// Paths in a PKCS #7 signature (RFC 2315): ContentInfo and SignedData.
var (
	atSignedData = []int{1, 0}
	atDigestAlgs = []int{1, 0, 1}
	atContent    = []int{1, 0, 2}
	atSPC        = []int{1, 0, 2, 1, 0}
	atCerts      = []int{1, 0, 3}
	atSigners    = []int{1, 0, 4}
	atSigner     = []int{1, 0, 4, 0}
	atAttributes = []int{1, 0, 4, 0, 3}
)

// entry returns an entry of a certificate table.
func entry(kind uint16, data []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(8+len(data)))
	b = binary.LittleEndian.AppendUint16(b, 0x0200)
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(b)&7)...)
}

// withTable returns the unsigned image with a certificate table.
func withTable(t testing.TB, table []byte) []byte {
	t.Helper()
	b := image(t, "unsigned")
	const directory = 0x40 + 4 + 20 + 112 + 4*8
	binary.LittleEndian.PutUint32(b[directory:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[directory+4:], uint32(len(table)))
	return append(b, table...)
}

// table returns the certificate table of a recorded image.
func table(t testing.TB, name string) []byte {
	t.Helper()
	return image(t, name)[len(image(t, "unsigned")):]
}

// signatureDER returns the signature of a recorded image.
func signatureDER(t testing.TB, name string) []byte {
	t.Helper()
	entries, err := open(t, image(t, name)).Certificates()
	if err != nil {
		t.Fatal(err)
	}
	der := entries[0].Data
	size := 4 + int(binary.BigEndian.Uint16(der[2:]))
	return der[:size]
}

func TestTreeRoundTrip(t *testing.T) {
	t.Parallel()
	der := signatureDER(t, "self")
	if !bytes.Equal(parseNodes(t, der)[0].encode(), der) {
		t.Error("changed")
	}
	b := withTable(t, entry(2, der))
	if v := check(t, b, &trust.Store{}, trusting(t, "self")); !v.Trusted {
		t.Error(v.Detail)
	}
}

func TestBadSignature(t *testing.T) {
	t.Parallel()
	oid := func(n *node, last byte) { n.content = append(slices.Clone(n.content[:len(n.content)-1]), last) }
	drop := func(n *node, i int) { n.children = slices.Delete(n.children, i, i+1) }
	double := func(n *node, i int) { n.children = slices.Insert(n.children, i, n.children[i]) }
	for name, test := range map[string]struct {
		change func(n *node)
		want   string
	}{
		"not signed data":           {func(n *node) { oid(n.at(0), 3) }, "signature 0: content type 1.2.840.113549.1.7.3: not signed data"},
		"nothing inside":            {func(n *node) { drop(n, 1) }, "signature 0: not PKCS #7: asn1: "},
		"not an object identifier":  {func(n *node) { n.at(0).tag = 4 }, "signature 0: not PKCS #7: asn1: "},
		"no version":                {func(n *node) { drop(n.at(atSignedData...), 0) }, "signature 0: signed data: asn1: "},
		"no digest algorithm":       {func(n *node) { n.at(atDigestAlgs...).children = nil }, "signature 0: signed data: 0 digest algorithms"},
		"two digest algorithms":     {func(n *node) { double(n.at(atDigestAlgs...), 0) }, "signature 0: signed data: 2 digest algorithms"},
		"data, not Authenticode":    {func(n *node) { oid(n.at(atContent...).at(0), 9) }, "signature 0: signed data: content type 1.3.6.1.4.1.311.2.1.9: not Authenticode"},
		"no content":                {func(n *node) { drop(n.at(atContent...), 1) }, "signature 0: signed data: asn1: "},
		"content is not a sequence": {func(n *node) { n.at(atSPC...).tag = 0x31 }, "signature 0: indirect data: asn1: "},
		"content twice":             {func(n *node) { double(n.at(1, 0, 2, 1), 0) }, "signature 0: indirect data: "},
		"not of a PE image":         {func(n *node) { oid(n.at(atSPC...).at(0, 0), 25) }, "signature 0: indirect data: type 1.3.6.1.4.1.311.2.1.25: not of a PE image"},
		"no digest":                 {func(n *node) { drop(n.at(atSPC...), 1) }, "signature 0: indirect data: asn1: "},
		"unknown digest": {func(n *node) { oid(n.at(atSPC...).at(1, 0, 0), 99) },
			"signature 0: indirect data: digest algorithm 2.16.840.1.101.3.4.2.99: unknown"},
		"short digest": {func(n *node) { d := n.at(atSPC...).at(1, 1); d.content = d.content[:31] },
			"signature 0: indirect data: digest of 31 bytes: SHA-256 has 32"},
		"digest of another algorithm": {func(n *node) { oid(n.at(atSPC...).at(1, 0, 0), 2) },
			"signature 0: indirect data: digest of 32 bytes: SHA-384 has 48"},
		"no signer":      {func(n *node) { n.at(atSigners...).children = nil }, "signature 0: PKCS #7: 0 signers that can be read: Authenticode has one"},
		"signers gone":   {func(n *node) { drop(n.at(atSignedData...), 4) }, "signature 0: PKCS #7: 0 signers that can be read: Authenticode has one"},
		"two signers":    {func(n *node) { double(n.at(atSigners...), 0) }, "signature 0: PKCS #7: 2 signers that can be read: Authenticode has one"},
		"empty signer":   {func(n *node) { n.at(atSigner...).children = nil }, "signature 0: PKCS #7: 0 signers that can be read"},
		"no issuer":      {func(n *node) { drop(n.at(atSigner...), 1) }, "signature 0: PKCS #7: "},
		"no serial":      {func(n *node) { drop(n.at(atSigner...).at(1), 1) }, "signature 0: PKCS #7: "},
		"serial is text": {func(n *node) { n.at(atSigner...).at(1, 1).tag = 12 }, "signature 0: PKCS #7: "},
		"another serial": {func(n *node) { s := n.at(atSigner...).at(1, 1); s.content = []byte{1} },
			"signature 0: PKCS #7: the signer's certificate is not in it"},
		"no certificates": {func(n *node) { drop(n.at(atSignedData...), 3) }, "signature 0: PKCS #7: the signer's certificate is not in it"},
		"bad certificate": {func(n *node) { n.at(atCerts...).at(0, 0).tag = 0x31 }, "signature 0: PKCS #7: x509: "},
		"many certificates": {func(n *node) {
			for range 16 {
				double(n.at(atCerts...), 0)
			}
		}, "signature 0: PKCS #7: 17 certificates: more than 16"},
		"signer has another digest": {func(n *node) { oid(n.at(atSigner...).at(2, 0), 2) },
			"signature 0: PKCS #7: digest algorithm 2.16.840.1.101.3.4.2.2: the image has 2.16.840.1.101.3.4.2.1"},
		"no attributes": {func(n *node) { drop(n.at(atSigner...), 3) }, "signature 0: PKCS #7: 0 signed attributes 1.2.840.113549.1.9.3: wants one"},
		"no message digest": {func(n *node) { drop(n.at(atAttributes...), attribute(n, 4)) },
			"signature 0: PKCS #7: 0 signed attributes 1.2.840.113549.1.9.4: wants one"},
		"two message digests": {func(n *node) { double(n.at(atAttributes...), attribute(n, 4)) },
			"signature 0: PKCS #7: 2 signed attributes 1.2.840.113549.1.9.4: wants one"},
		"attribute says data": {func(n *node) { oid(n.at(atAttributes...).at(attribute(n, 3), 1, 0), 9) },
			"signature 0: PKCS #7: content type attribute 1.3.6.1.4.1.311.2.1.9: not Authenticode"},
		"attribute is empty": {func(n *node) { n.at(atAttributes...).at(attribute(n, 3), 1).children = nil },
			"signature 0: PKCS #7: content type attribute: asn1: "},
		"signature algorithm": {func(n *node) { oid(n.at(atSigner...).at(4, 0), 10) },
			"signature 0: PKCS #7: signature algorithm 1.2.840.113549.1.1.10 with a key of type RSA: unknown"},
		"elliptic signature with an RSA key": {func(n *node) { n.at(atSigner...).at(4, 0).content = []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2} },
			"signature 0: PKCS #7: signature algorithm 1.2.840.10045.4.3.2 with a key of type RSA: unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := parseNodes(t, signatureDER(t, "self"))[0]
			test.change(root)
			b := withTable(t, entry(2, root.encode()))
			v, err := trust.Check(open(t, b), &trust.Store{}, trusting(t, "self"))
			if v != nil {
				t.Errorf("%+v", v)
			}
			wantError(t, err, test.want)
		})
	}
}

// attribute returns the index of the signed attribute 1.2.840.113549.1.9.N.
func attribute(root *node, n byte) int {
	return slices.IndexFunc(root.at(atAttributes...).children, func(a *node) bool {
		return bytes.Equal(a.at(0).content, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, n})
	})
}

// TestNotSignedThat changes what is signed: no error, and never trusted.
func TestNotSignedThat(t *testing.T) {
	t.Parallel()
	flip := func(n *node) { n.content = slices.Clone(n.content); n.content[len(n.content)-1] ^= 1 }
	for name, test := range map[string]struct {
		change func(n *node)
		want   trust.Reason
	}{
		"image digest":                {func(n *node) { flip(n.at(atSPC...).at(1, 1)) }, trust.ReasonDigestMismatch},
		"message digest":              {func(n *node) { flip(n.at(atAttributes...).at(attribute(n, 4), 1, 0)) }, trust.ReasonBadSignature},
		"signing time":                {func(n *node) { n.at(atAttributes...).at(attribute(n, 5), 1, 0).content[0] ^= 1 }, trust.ReasonBadSignature},
		"signature":                   {func(n *node) { flip(n.at(atSigner...).at(5)) }, trust.ReasonBadSignature},
		"empty number":                {func(n *node) { n.at(atSigner...).at(5).content = nil }, trust.ReasonBadSignature},
		"attributes in another order": {func(n *node) { slices.Reverse(n.at(atAttributes...).children) }, ""},
		"one more attribute": {func(n *node) {
			a := n.at(atAttributes...)
			a.children = append(a.children, &node{tag: 0x30, children: []*node{{tag: 6, content: []byte{0x2a, 3}}, {tag: 0x31}}})
		}, trust.ReasonBadSignature},
		"object, not image": {func(n *node) { n.at(atSPC...).at(0, 0).content[9] = 21 }, trust.ReasonBadSignature}, // pesign's mistake is understood
		"issuer's certificate swapped": {func(n *node) {
			c := parseNodes(t, certificate(t, recorded, "other.pem").Raw)[0]
			issuer, serial := c.at(0, 3), c.at(0, 1)
			n.at(atCerts...).children[0] = c
			n.at(atSigner...).at(1).children = []*node{issuer, serial}
		}, trust.ReasonBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := parseNodes(t, signatureDER(t, "self"))[0]
			test.change(root)
			b := withTable(t, entry(2, root.encode()))
			v := check(t, b, &trust.Store{}, trusting(t, "self", "other"))
			if v.Reason != test.want {
				t.Errorf("%q, want %q: %s", v.Reason, test.want, v.Detail)
			}
		})
	}
}

func TestBadEncoding(t *testing.T) {
	t.Parallel()
	der := signatureDER(t, "self")
	deep := []byte{5, 0}
	for range 40 {
		deep = slices.Concat(header(0x30, len(deep)), deep)
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":             {nil, "signature 0: 0 bytes: empty"},
		"zero":              {make([]byte, 100), "signature 0: 98 bytes behind it that are not padding"},
		"truncated":         {der[:len(der)-1], "signature 0: not DER: "},
		"bytes behind":      {append(slices.Clone(der), 1), "signature 0: 1 bytes behind it that are not padding"},
		"too much padding":  {append(slices.Clone(der), make([]byte, 8)...), "signature 0: 8 bytes behind it that are not padding"},
		"indefinite length": {slices.Concat([]byte{0x30, 0x80}, der[4:], []byte{0, 0}), "signature 0: not DER: an indefinite length"},
		"long length":       {slices.Concat([]byte{0x30, 0x83, 0}, der[2:]), "signature 0: not DER: a length that is not minimal"},
		"longer length":     {slices.Concat([]byte{0x30, 0x84, 0, 0}, der[2:]), "signature 0: not DER: a length of 4 bytes"},
		"endless":           {[]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, "signature 0: not DER: a length of 4 bytes"},
		"length cut off":    {[]byte{0x30, 0x82, 1}, "signature 0: not DER: a length of 2 bytes"},
		"child too long":    {[]byte{0x30, 4, 0x30, 4, 5, 0}, "signature 0: not DER: 4 bytes wanted, 2 left"},
		"child cut off":     {[]byte{0x30, 1, 0x30}, "signature 0: not DER: truncated"},
		"long tag":          {[]byte{0x30, 3, 0x1f, 0x80, 0}, "signature 0: not DER: a tag of more than one byte"},
		"deep":              {deep, "signature 0: not DER: nested more than 32 deep"},
		"many elements":     {slices.Concat(header(0x30, 40000), bytes.Repeat([]byte{5, 0}, 20000)), "signature 0: not DER: more than 16384 elements"},
		"large":             {slices.Concat(header(0x30, 0x10008), make([]byte, 0x10008)), "signature 0: 65549 bytes: more than 65539"},
		"a number":          {[]byte{2, 1, 1}, "signature 0: not PKCS #7: asn1: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := trust.Check(open(t, withTable(t, entry(2, test.data))), &trust.Store{}, trust.Options{})
			wantError(t, err, test.want)
		})
	}
}

func TestBadTable(t *testing.T) {
	t.Parallel()
	good := table(t, "self")
	for name, test := range map[string]struct {
		table []byte
		want  string
	}{
		"X.509":          {entry(1, []byte("c")), "signature 0: type X509: only PKCS_SIGNED_DATA is supported"},
		"EFI GUID":       {slices.Concat(good, entry(0x0ef1, []byte("c"))), "signature 1: type EFI_GUID: only PKCS_SIGNED_DATA is supported"},
		"unknown":        {entry(7, []byte("c")), "signature 0: type 0x0007: only"},
		"garbage behind": {slices.Concat(good, []byte("garbage!")), "certificate table: entry 1 at 1544: length 1651663207: the table has 8 bytes left"},
	} {
		_, err := trust.Check(open(t, withTable(t, test.table)), &trust.Store{}, trusting(t, "self"))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// twice the same is fine
	if v := check(t, withTable(t, slices.Concat(good, good)), &trust.Store{}, trusting(t, "self")); !v.Trusted || len(v.Signatures) != 2 {
		t.Errorf("%+v", v)
	}
}

// FuzzCertificateTable puts anything into the certificate table of an image.
func FuzzCertificateTable(f *testing.F) {
	for _, name := range []string{"self", "chain", "dual", "ec", "sha1", "sha384", "forged", "modsign"} {
		f.Add(table(f, name))
	}
	f.Add(read(f, real, "shimx64.efi.signed.certtable"))
	f.Add(entry(2, nil))
	f.Add(entry(2, []byte{0x30, 0x80, 0x30, 0x80, 0, 0, 0, 0}))
	opts := trusting(f, "self", "ca", "ec")
	signers := map[string]bool{}
	for _, name := range []string{"self", "direct", "ec"} {
		signers[string(certificate(f, recorded, name+".pem").RawTBSCertificate)] = true
	}
	store := &trust.Store{MokListX: database(f, "leaf.tbs256")}
	base := image(f, "unsigned")
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, -len(b)&7)...)
		file, err := uki.Open(bytes.NewReader(withTable(t, b)), int64(len(base)+len(b)))
		if err != nil {
			t.Fatal(err)
		}
		entries, err := file.Certificates()
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = append(again, entry(uint16(e.Type), e.Data)...)
		}
		if !bytes.Equal(again, b) {
			t.Fatal("the entries are not the table")
		}
		v, err := trust.Check(file, store, opts)
		if err != nil {
			if strings.Contains(err.Error(), "runtime error") {
				t.Fatalf("the library panics, and only the recover holds: %v", err)
			}
			return
		}
		if len(v.Signatures) != len(entries) {
			t.Fatalf("%d signatures, %d entries", len(v.Signatures), len(entries))
		}
		for _, s := range v.Signatures {
			// nobody but those whose signatures are among the seeds can sign; leaf is revoked
			if s.Reason == "" && (s.Anchor == nil || s.Hash == 0 || !signers[string(s.Signer.RawTBSCertificate)]) {
				t.Fatalf("%v", s)
			}
		}
		if v.Trusted != (v.Reason == "") {
			t.Fatalf("%+v", v)
		}
	})
}

// TestEveryByte flips bits of what is signed: only the checksum may differ.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	good := image(t, "self")
	opts := trusting(t, "self")
	const checksum, directory = 0x40 + 4 + 20 + 64, 0x40 + 4 + 20 + 112 + 4*8
	signed := len(image(t, "unsigned"))
	step := 11
	for i := 0; i < signed; i += step {
		if step = 11; i < 0x200 { // the headers
			step = 1
		}
		b := bytes.Clone(good)
		b[i] ^= 1
		f, err := uki.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			continue
		}
		v, err := trust.Check(f, &trust.Store{}, opts)
		free := i >= checksum && i < checksum+4
		if trusted := err == nil && v.Trusted; trusted != free {
			t.Errorf("byte %d: trusted %v, %v", i, trusted, err)
		}
	}
	if b := bytes.Clone(good); b[directory] == 0 && b[directory+1] == 0 {
		t.Error("the table's entry is not where this test has it")
	}
}
