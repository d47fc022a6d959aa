package trust

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // of image digests in dbx
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/smallstep/pkcs7"

	"github.com/mkexec/mkexec/measure/uki"
)

const (
	// maxSignature is the size of what EDK2 and Linux read, whose length has two
	// bytes (HashPeImageByType: "Only support two bytes"; pefile_strip_sig_wrapper:
	// EMSGSIZE).
	maxSignature = 4 + 0xffff
	// maxCertificates bounds the certificates in a signature. Real ones have up to five.
	maxCertificates = 16
)

// Object identifiers of Microsoft, "Windows Authenticode Portable Executable
// Signature Format", and PKCS #9.
var (
	oidIndirectData = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImageData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
	// oidIndividual is in its place in what old versions of pesign made; Linux
	// takes it (crypto/asymmetric_keys/mscode_parser.c).
	oidIndividual = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 21}
)

// digests has the digest algorithms that are strong enough.
var digests = []struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
}{
	{pkcs7.OIDDigestAlgorithmSHA256, crypto.SHA256},
	{pkcs7.OIDDigestAlgorithmSHA384, crypto.SHA384},
	{pkcs7.OIDDigestAlgorithmSHA512, crypto.SHA512},
}

// weakDigests has those that are known and are not.
var weakDigests = []struct {
	oid  asn1.ObjectIdentifier
	name string
}{
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}, "MD5"},
	{pkcs7.OIDDigestAlgorithmSHA1, "SHA-1"},
	{pkcs7.OIDDigestAlgorithmSHA224, "SHA-224"},
}

// signatureAlgorithms has those that firmware and Linux know for each kind of key.
var signatureAlgorithms = map[x509.PublicKeyAlgorithm][]asn1.ObjectIdentifier{
	x509.RSA: {pkcs7.OIDEncryptionAlgorithmRSA, pkcs7.OIDEncryptionAlgorithmRSASHA256,
		pkcs7.OIDEncryptionAlgorithmRSASHA384, pkcs7.OIDEncryptionAlgorithmRSASHA512},
	x509.ECDSA: {pkcs7.OIDDigestAlgorithmECDSASHA256, pkcs7.OIDDigestAlgorithmECDSASHA384, pkcs7.OIDDigestAlgorithmECDSASHA512},
}

// A signature is an Authenticode signature: who signed which digest of an image.
type signature struct {
	// hash is 0 if the algorithm is too weak; weak is then its name.
	hash   crypto.Hash
	weak   string
	digest []byte // of the image
	signer *x509.Certificate
	// embedded are the certificates in the signature, the signer's among them.
	embedded []*x509.Certificate
	// invalid says why the signature was not made with the signer's key; nil if it was.
	invalid error
}

// parseSignature parses an entry of the certificate table and verifies that the
// holder of the signer's certificate made it. Whether anyone trusts that is not
// looked at. An error means that it cannot be understood.
func parseSignature(c uki.Certificate) (*signature, error) {
	if c.Type != uki.CertificatePKCS7 {
		return nil, fmt.Errorf("type %v: only %v is supported", c.Type, uki.CertificatePKCS7)
	}
	der, err := trimPadding(c.Data)
	if err != nil {
		return nil, err
	}
	if err := checkDER(der); err != nil {
		return nil, err
	}
	content, err := parseContent(der)
	if err != nil {
		return nil, err
	}
	s := &signature{}
	algorithm, err := s.parseDigest(content)
	if err != nil {
		return nil, err
	}
	return s, s.parseSigner(der, content, algorithm)
}

// trimPadding cuts off the zero bytes by which an entry is made a multiple of 8.
func trimPadding(b []byte) ([]byte, error) {
	if len(b) > maxSignature+7 {
		return nil, fmt.Errorf("%d bytes: more than %d", len(b), maxSignature)
	}
	if len(b) < 2 {
		return nil, fmt.Errorf("%d bytes: empty", len(b))
	}
	_, rest, err := splitLength(b[1:])
	if err != nil {
		return nil, fmt.Errorf("not DER: %w", err)
	}
	if len(rest) > 7 || len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, fmt.Errorf("%d bytes behind it that are not padding", len(rest))
	}
	return b[:len(b)-len(rest)], nil
}

// The first fields of ContentInfo and SignedData of PKCS #7 (RFC 2315, 7 and
// 9.1); encoding/asn1 passes over what follows in a SEQUENCE.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"` // Bytes is what is in the tag
	}
	signedData struct {
		Version          int
		DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
		ContentInfo      contentInfo
	}
)

// parseContent returns what is signed, the SpcIndirectDataContent.
func parseContent(der []byte) ([]byte, error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, fmt.Errorf("not PKCS #7: %w", err)
	}
	if !outer.Type.Equal(pkcs7.OIDSignedData) {
		return nil, fmt.Errorf("content type %v: not signed data", outer.Type)
	}
	var sd signedData
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &sd); err != nil {
		return nil, fmt.Errorf("signed data: %w", err)
	}
	if !sd.ContentInfo.Type.Equal(oidIndirectData) {
		return nil, fmt.Errorf("signed data: content type %v: not Authenticode", sd.ContentInfo.Type)
	}
	// EDK2 hashes the image with the algorithm that is here
	if len(sd.DigestAlgorithms) != 1 {
		return nil, fmt.Errorf("signed data: %d digest algorithms", len(sd.DigestAlgorithms))
	}
	return sd.ContentInfo.Content.Bytes, nil
}

// parseDigest parses SpcIndirectDataContent.
func (s *signature) parseDigest(content []byte) (asn1.ObjectIdentifier, error) {
	var spc struct {
		Data struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue `asn1:"optional"`
		}
		MessageDigest struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
	}
	rest, err := asn1.Unmarshal(content, &spc)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes behind it", len(rest))
	}
	if err != nil {
		return nil, fmt.Errorf("indirect data: %w", err)
	}
	if t := spc.Data.Type; !t.Equal(oidPEImageData) && !t.Equal(oidIndividual) {
		return nil, fmt.Errorf("indirect data: type %v: not of a PE image", t)
	}
	oid := spc.MessageDigest.Algorithm.Algorithm
	for _, d := range digests {
		if d.oid.Equal(oid) {
			s.hash = d.hash
		}
	}
	for _, d := range weakDigests {
		if d.oid.Equal(oid) {
			s.weak = d.name
		}
	}
	s.digest = spc.MessageDigest.Digest
	switch {
	case s.hash == 0 && s.weak == "":
		return nil, fmt.Errorf("indirect data: digest algorithm %v: unknown", oid)
	case s.hash != 0 && len(s.digest) != s.hash.Size():
		return nil, fmt.Errorf("indirect data: digest of %d bytes: %v has %d", len(s.digest), s.hash, s.hash.Size())
	}
	return oid, nil
}

// parseSigner finds the certificate of the signer of content and verifies the signature.
func (s *signature) parseSigner(der, content []byte, algorithm asn1.ObjectIdentifier) (err error) {
	// The library panics on numbers that it expects to be there, among others. What
	// is known is caught by the checks; this is for what is not.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("PKCS #7: %v", r)
		}
	}()
	p7, err := pkcs7.Parse(der)
	if err != nil {
		return fmt.Errorf("PKCS #7: %w", err)
	}
	if len(p7.Signers) != 1 { // Authenticode specification, "SignedData"
		return fmt.Errorf("PKCS #7: %d signers that can be read: Authenticode has one", len(p7.Signers))
	}
	if len(p7.Certificates) > maxCertificates {
		return fmt.Errorf("PKCS #7: %d certificates: more than %d", len(p7.Certificates), maxCertificates)
	}
	signer := &p7.Signers[0]
	if signer.IssuerAndSerialNumber.SerialNumber == nil {
		return errors.New("PKCS #7: signer without a serial number")
	}
	// the signature covers the inside of the SEQUENCE
	var sequence asn1.RawValue
	if _, err := asn1.Unmarshal(content, &sequence); err != nil || !bytes.Equal(sequence.Bytes, p7.Content) {
		return errors.New("PKCS #7: the content is not what is signed")
	}
	if !signer.DigestAlgorithm.Algorithm.Equal(algorithm) {
		return fmt.Errorf("PKCS #7: digest algorithm %v: the image has %v", signer.DigestAlgorithm.Algorithm, algorithm)
	}
	for _, oid := range []asn1.ObjectIdentifier{pkcs7.OIDAttributeContentType, pkcs7.OIDAttributeMessageDigest} {
		n := 0
		for _, a := range signer.AuthenticatedAttributes {
			if a.Type.Equal(oid) {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("PKCS #7: %d signed attributes %v: wants one", n, oid)
		}
	}
	var contentType asn1.ObjectIdentifier
	if err := p7.UnmarshalSignedAttribute(pkcs7.OIDAttributeContentType, &contentType); err != nil {
		return fmt.Errorf("PKCS #7: content type attribute: %w", err)
	}
	if !contentType.Equal(oidIndirectData) {
		return fmt.Errorf("PKCS #7: content type attribute %v: not Authenticode", contentType)
	}

	if s.signer = p7.GetOnlySigner(); s.signer == nil {
		return errors.New("PKCS #7: the signer's certificate is not in it")
	}
	s.embedded = slices.Clone(p7.Certificates)
	for i, c := range p7.Certificates { // else it looks at the signing time
		p7.Certificates[i] = timeless(c)
	}
	if s.hash == 0 {
		return nil
	}
	if oid := signer.DigestEncryptionAlgorithm.Algorithm; !slices.ContainsFunc(signatureAlgorithms[s.signer.PublicKeyAlgorithm], oid.Equal) {
		return fmt.Errorf("PKCS #7: signature algorithm %v with a key of type %v: unknown", oid, s.signer.PublicKeyAlgorithm)
	}
	s.invalid = p7.Verify()
	return nil
}
