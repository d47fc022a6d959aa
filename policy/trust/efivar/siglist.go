package efivar

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // of the certificates that are looked up
	_ "crypto/sha512"
	"encoding/binary"
	"fmt"
)

// A GUID is the sixteen bytes of a GUID as EFI stores it.
type GUID [16]byte

// String returns the usual spelling, whose first three parts are little endian numbers.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[:]),
		binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// A kind is what the signatures of a list are.
type kind struct {
	name string
	size int // of one signature without its owner in bytes, 0 if they differ
	hash crypto.Hash
	tbs  bool // hash of a certificate's to-be-signed part, with a time behind it
	x509 bool
}

const timeSize = 16 // EFI_TIME

// kinds has the types of UEFI 2.11, "Signature Database"; the GUIDs are as
// String spells them. What EDK2, shim and Linux do not look at has only a name.
var kinds = map[string]kind{
	"a5c059a1-94e4-4aa7-87b5-ab155c2bf072": {name: "X509", x509: true},
	"826ca512-cf10-4ac9-b187-be01496631bd": {name: "SHA1", size: 20, hash: crypto.SHA1},
	"c1c41626-504c-4092-aca9-41f936934328": {name: "SHA256", size: 32, hash: crypto.SHA256},
	"ff3e5307-9fd0-48c9-85f1-8ad56c701e01": {name: "SHA384", size: 48, hash: crypto.SHA384},
	"093e0fae-a6c4-4f50-9f1b-d41e2b89c19a": {name: "SHA512", size: 64, hash: crypto.SHA512},
	"3bd2a492-96c0-4079-b420-fcf98ef103ed": {name: "X509_SHA256", size: 32 + timeSize, hash: crypto.SHA256, tbs: true},
	"7076876e-80c2-4ee6-aad2-28b349a6865b": {name: "X509_SHA384", size: 48 + timeSize, hash: crypto.SHA384, tbs: true},
	"446dbf63-2502-4cda-bcfa-2465d2b0fe9d": {name: "X509_SHA512", size: 64 + timeSize, hash: crypto.SHA512, tbs: true},
	"0b6e5233-a65c-44c9-9407-d9ab83bfc8bd": {name: "SHA224"},
	"3c5766e8-269c-4e34-aa14-ed776e85b3b6": {name: "RSA2048"},
	"e2b36190-879b-4a3d-ad8d-f2e7bba32784": {name: "RSA2048_SHA256"},
	"67f8444f-8743-48f1-a328-1eaab8736080": {name: "RSA2048_SHA1"},
	"4aafd29d-68df-49ee-8aa9-347d375665a7": {name: "PKCS7"},
	"57347f87-7a9b-403a-b93c-dc4afb7a0ebc": {name: "SM3"},
	"60d807e5-10b4-49a9-9331-e40437888d37": {name: "X509_SM3"},
	"452e8ced-dfff-4b8c-ae01-5118862e682c": {name: "EXTERNAL_MANAGEMENT"},
}

const (
	listHeaderSize = 28 // type, SignatureListSize, SignatureHeaderSize, SignatureSize
	ownerSize      = 16
)

// A Hash is a digest in a database and what made it.
type Hash struct {
	Hash   crypto.Hash
	Digest string // the bytes
}

// A Database is what is in a variable such as db or dbx.
type Database struct {
	// Certificates are X.509 certificates in DER.
	Certificates [][]byte
	// Images has Authenticode digests.
	Images map[Hash]bool
	// TBS has digests of certificates' to-be-signed parts. The time from which
	// on they are revoked, which UEFI lets an entry have, is not kept: who does
	// not check time stamps has to take them as revoked for ever.
	TBS map[Hash]bool
	// Ignored has the names of the types that nothing looks at, neither EDK2 nor
	// shim nor Linux: one name for each list.
	Ignored []string
	// Unknown has the GUIDs of the types that are not in the specification. Who
	// looks for what is revoked cannot tell then.
	Unknown []GUID
}

// HasImage tells whether the Authenticode digest of an image is in the database.
func (d Database) HasImage(h crypto.Hash, digest []byte) bool {
	return d.Images[Hash{h, string(digest)}]
}

// HasTBS tells whether the database has the to-be-signed part of a certificate, in DER.
func (d Database) HasTBS(tbs []byte) bool {
	for _, k := range kinds {
		if !k.tbs {
			continue
		}
		h := k.hash.New()
		h.Write(tbs)
		if d.TBS[Hash{k.hash, string(h.Sum(nil))}] {
			return true
		}
	}
	return false
}

// ParseDatabase parses concatenated EFI_SIGNATURE_LISTs (UEFI 2.11, "Signature
// Database").
func ParseDatabase(b []byte) (Database, error) {
	var d Database
	if err := d.add(b); err != nil {
		return Database{}, err
	}
	return d, nil
}

func (d *Database) add(b []byte) error {
	if d.Images == nil {
		d.Images, d.TBS = map[Hash]bool{}, map[Hash]bool{}
	}
	for at := 0; at < len(b); {
		size, err := d.addList(b[at:])
		if err != nil {
			return fmt.Errorf("signature list at %d: %w", at, err)
		}
		at += size
	}
	return nil
}

// addList adds the list that b begins with and returns its size.
func (d *Database) addList(b []byte) (int, error) {
	if len(b) < listHeaderSize {
		return 0, fmt.Errorf("truncated: %d bytes are left, a header has %d", len(b), listHeaderSize)
	}
	guid := GUID(b[:16])
	listSize := int64(binary.LittleEndian.Uint32(b[16:]))
	headerSize := int64(binary.LittleEndian.Uint32(b[20:]))
	size := int64(binary.LittleEndian.Uint32(b[24:]))
	if listSize < listHeaderSize || listSize > int64(len(b)) {
		return 0, fmt.Errorf("size %d: not from %d to the %d that are left", listSize, listHeaderSize, len(b))
	}
	if headerSize != 0 { // no type has one
		return 0, fmt.Errorf("header of %d bytes: unknown", headerSize)
	}
	k, known := kinds[guid.String()]
	if !known {
		k.name = guid.String()
		d.Unknown = append(d.Unknown, guid)
	}
	body := b[listHeaderSize:listSize]
	if size <= ownerSize || k.size != 0 && size != int64(ownerSize+k.size) {
		return 0, fmt.Errorf("type %s: signatures of %d bytes", k.name, size)
	}
	if int64(len(body))%size != 0 {
		return 0, fmt.Errorf("type %s: %d bytes are not a multiple of %d", k.name, len(body), size)
	}
	for ; len(body) > 0; body = body[size:] {
		signature := body[ownerSize:size]
		switch {
		case k.x509:
			d.Certificates = append(d.Certificates, bytes.Clone(signature))
		case k.tbs:
			d.TBS[Hash{k.hash, string(signature[:k.hash.Size()])}] = true
		case k.size != 0:
			d.Images[Hash{k.hash, string(signature)}] = true
		}
	}
	if known && k.size == 0 && !k.x509 {
		d.Ignored = append(d.Ignored, k.name)
	}
	return int(listSize), nil
}
