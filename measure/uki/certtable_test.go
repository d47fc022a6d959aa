package uki_test

// The entries of the certificate table. What is in them is read by policy/trust.

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/mkexec/mkexec/measure/uki"
)

// certEntry returns an entry of a certificate table, padded.
func certEntry(length uint32, revision, kind uint16, data []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, length)
	b = binary.LittleEndian.AppendUint16(b, revision)
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(b)&7)...)
}

// withCerts returns an image with a certificate table.
func withCerts(t testing.TB, table []byte) []byte {
	t.Helper()
	b := goldenImages(t)["uki"] // 5632 bytes
	put32(b, optAt+144, uint32(len(b)))
	put32(b, optAt+148, uint32(len(table)))
	return append(b, table...)
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	images := goldenImages(t)
	entries, err := open(t, images["signed"]).Certificates()
	if err != nil || len(entries) != 1 || entries[0].Type != uki.CertificatePKCS7 || !bytes.HasPrefix(entries[0].Data, []byte{0x30, 0x82}) {
		t.Errorf("%+v, %v", entries, err)
	}
	// sbsign's dwLength is without the padding: it is the length of the DER
	if got, want := len(entries[0].Data), 4+int(binary.BigEndian.Uint16(entries[0].Data[2:])); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	if entries, err := open(t, images["uki"]).Certificates(); entries != nil || err != nil {
		t.Errorf("%+v, %v", entries, err)
	}
	table := slices.Concat(certEntry(9, 0x200, 2, []byte("a")), certEntry(8, 0x200, 0x0ef1, nil), certEntry(16, 0x200, 99, []byte("12345678")))
	entries, err = open(t, withCerts(t, table)).Certificates()
	if err != nil || len(entries) != 3 || string(entries[0].Data) != "a" || len(entries[1].Data) != 0 || string(entries[2].Data) != "12345678" {
		t.Errorf("%+v, %v", entries, err)
	}
	for i, want := range []string{"PKCS_SIGNED_DATA", "EFI_GUID", "0x0063"} {
		if got := entries[i].Type.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestCertificatesRefuses(t *testing.T) {
	t.Parallel()
	good := certEntry(9, 0x200, 2, []byte("a"))
	for name, test := range map[string]struct {
		table []byte
		want  string
	}{
		"header cut off":       {[]byte{9, 0, 0, 0}, "certificate table: entry 0 at 0: truncated: 4 bytes are left, a header has 8"},
		"second cut off":       {append(bytes.Clone(good), 1, 2, 3), "certificate table: entry 1 at 16: truncated: 3 bytes are left, a header has 8"},
		"zero bytes behind":    {append(bytes.Clone(good), make([]byte, 8)...), "certificate table: entry 1 at 16: length 0: less than its header"},
		"length 7":             {certEntry(7, 0x200, 2, nil), "certificate table: entry 0 at 0: length 7: less than its header"},
		"length outside":       {certEntry(17, 0x200, 2, []byte("a")), "certificate table: entry 0 at 0: length 17: the table has 16 bytes left"},
		"length huge":          {certEntry(0xffffffff, 0x200, 2, []byte("a")), "certificate table: entry 0 at 0: length 4294967295: the table has 16 bytes left"},
		"not aligned":          {certEntry(9, 0x200, 2, []byte("a"))[:9], "certificate table: entry 0 at 0: length 9: the table ends before the next multiple of 8"},
		"padding":              {certEntry(9, 0x200, 2, []byte("ab")), "certificate table: entry 0 at 0: the padding behind it is not zero"},
		"revision 1":           {certEntry(9, 0x100, 2, []byte("a")), "certificate table: entry 0 at 0: revision 0x0100: not 2.0"},
		"seventeen":            {bytes.Repeat(good, 17), "certificate table: entry 16 at 256: more than 16 entries"},
		"more than a mebibyte": {make([]byte, 1<<20+8), "certificate table: 1048584 bytes: more than 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, err := open(t, withCerts(t, test.table)).Certificates()
			wantError(t, err, test.want)
			if entries != nil {
				t.Errorf("%+v", entries)
			}
		})
	}
	b := withCerts(t, good)
	put32(b, optAt+144, 5636)
	put32(b, optAt+148, 12)
	_, err := open(t, b).Certificates()
	wantError(t, err, "certificate table: starts at 5636, not at a multiple of 8")
}
