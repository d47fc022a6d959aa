package uki

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	// maxCertificateTable bounds the certificate table. Signatures have a few
	// kilobytes; firmware and the kernel read only those below 64 KiB.
	maxCertificateTable = 1 << 20
	// maxCertificates bounds the entries of the table. Images have one or two.
	maxCertificates = 16

	winCertificateSize = 8 // dwLength, wRevision, wCertificateType
)

// A CertificateType is the kind of an entry of the certificate table.
type CertificateType uint16

// The type that signed images have: Authenticode.
const CertificatePKCS7 CertificateType = 0x0002

// certificateTypes has the names that the PE/COFF specification ("The Attribute
// Certificate Table") and the UEFI specification ("WIN_CERTIFICATE") give them.
var certificateTypes = map[CertificateType]string{
	0x0001:           "X509",
	CertificatePKCS7: "PKCS_SIGNED_DATA",
	0x0003:           "RESERVED_1",
	0x0004:           "TS_STACK_SIGNED",
	0x0EF0:           "EFI_PKCS115",
	0x0EF1:           "EFI_GUID",
}

// String returns the name of the type, or the number if it has none.
func (t CertificateType) String() string {
	if name, ok := certificateTypes[t]; ok {
		return name
	}
	return fmt.Sprintf("0x%04x", uint16(t))
}

// A Certificate is one entry of the certificate table (WIN_CERTIFICATE). In
// spite of its name it is a signature in all files that firmware loads.
type Certificate struct {
	Type CertificateType
	// Data is what is behind the entry's header, up to its dwLength: it may end
	// in up to seven zero bytes that are not part of the signature.
	Data []byte
}

// Certificates returns the entries of the certificate table in the order of the
// file, none if it is not signed.
//
// Entries start at multiples of 8, and the bytes between them are zero. The
// table has to be used up by them, as EDK2 wants it
// (SecurityPkg/Library/DxeImageVerificationLib, DxeImageVerificationHandler),
// and their revision is 2.0, as Linux wants it
// (crypto/asymmetric_keys/verify_pefile.c, pefile_strip_sig_wrapper).
func (f *File) Certificates() ([]Certificate, error) {
	if f.cert.size == 0 {
		return nil, nil
	}
	if f.cert.off%8 != 0 {
		return nil, fmt.Errorf("certificate table: starts at %d, not at a multiple of 8", f.cert.off)
	}
	if f.cert.size > maxCertificateTable {
		return nil, fmt.Errorf("certificate table: %d bytes: more than %d", f.cert.size, maxCertificateTable)
	}
	table := make([]byte, f.cert.size)
	if err := f.read("certificate table", table, f.cert.off); err != nil {
		return nil, err
	}
	return parseCertificates(table)
}

func parseCertificates(table []byte) ([]Certificate, error) {
	var entries []Certificate
	for at := 0; at < len(table); {
		left := table[at:]
		what := func(format string, args ...any) error {
			return fmt.Errorf("certificate table: entry %d at %d: %s", len(entries), at, fmt.Sprintf(format, args...))
		}
		if len(entries) == maxCertificates {
			return nil, what("more than %d entries", maxCertificates)
		}
		if len(left) < winCertificateSize {
			return nil, what("truncated: %d bytes are left, a header has %d", len(left), winCertificateSize)
		}
		length := binary.LittleEndian.Uint32(left)
		if length < winCertificateSize {
			return nil, what("length %d: less than its header", length)
		}
		if int64(length) > int64(len(left)) {
			return nil, what("length %d: the table has %d bytes left", length, len(left))
		}
		next := (int64(length) + 7) &^ 7
		if next > int64(len(left)) {
			return nil, what("length %d: the table ends before the next multiple of 8", length)
		}
		if len(bytes.Trim(left[length:next], "\x00")) != 0 {
			return nil, what("the padding behind it is not zero")
		}
		if revision := binary.LittleEndian.Uint16(left[4:]); revision != 0x0200 {
			return nil, what("revision 0x%04x: not 2.0", revision)
		}
		entries = append(entries, Certificate{
			Type: CertificateType(binary.LittleEndian.Uint16(left[6:])),
			Data: left[winCertificateSize:length],
		})
		at += int(next)
	}
	return entries, nil
}
