package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
)

// maxCertificateFile bounds a file of certificates in bytes.
const maxCertificateFile = 1 << 20

// ReadCertificates reads the certificates of a file, or of the files of a
// directory that end in .pem, .crt, .cer or .der. A file has one certificate in
// DER, or one and more in PEM. Finding none is an error.
func ReadCertificates(fsys fs.FS, name string) ([]*x509.Certificate, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return readCertificateFile(fsys, name)
	}
	entries, err := fs.ReadDir(fsys, name)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for _, e := range entries {
		if !slices.Contains([]string{".pem", ".crt", ".cer", ".der"}, path.Ext(e.Name())) {
			continue
		}
		certs, err := readCertificateFile(fsys, path.Join(name, e.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, certs...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no file in it ends in .pem, .crt, .cer or .der", name)
	}
	return all, nil
}

func readCertificateFile(fsys fs.FS, name string) ([]*x509.Certificate, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCertificateFile+1))
	if err == nil && len(b) > maxCertificateFile {
		err = fmt.Errorf("more than %d bytes", maxCertificateFile)
	}
	var certs []*x509.Certificate
	if err == nil {
		certs, err = ParseCertificates(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// ParseCertificates parses one certificate in DER, or one and more in PEM.
func ParseCertificates(b []byte) ([]*x509.Certificate, error) {
	if !bytes.Contains(b, []byte("-----BEGIN ")) {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("neither PEM nor a certificate in DER: %w", err)
		}
		return []*x509.Certificate{c}, nil
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d: %.40q: not a certificate", len(certs)+1, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("bad PEM")
	}
	return certs, nil
}
