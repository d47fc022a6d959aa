package stub

import "github.com/mkexec/mkexec/measure"

// extraFiles are the sections that the stub hands to the initrd as files in
// /.extra, each in an archive of its own, in order (systemd 262,
// src/boot/stub.c, generate_embedded_initrds).
var extraFiles = []struct {
	section, name string
	since         int
}{
	{".pcrsig", "tpm2-pcr-signature.json", 252},
	{".pcrpkey", "tpm2-pcr-public-key.pem", 252},
	{".osrel", "os-release", 257},
	{".profile", "profile", 257},
}

// initrd returns the pieces of the initrd that the stub composes: microcode,
// initrd, the files of /.extra. Where it consists of more than one, each is
// padded with zero bytes to a multiple of 4; a single one is handed on as it is
// (systemd 262, src/boot/initrd.c, combine_initrds).
func initrd(sel selection, major int) []measure.Content {
	var parts [][]measure.Content
	for _, name := range []string{".ucode", ".initrd"} {
		if s := sel[name]; s != nil {
			parts = append(parts, []measure.Content{s})
		}
	}
	for _, x := range extraFiles {
		if s := sel[x.section]; s != nil && x.since <= major {
			parts = append(parts, cpio(".extra", 0o555, 0o444, cpioFile{x.name, s}))
		}
	}
	return join(parts)
}

// join puts initrds behind each other as the stub and ukify do.
func join(parts [][]measure.Content) []measure.Content {
	if len(parts) == 1 {
		return parts[0]
	}
	var pieces []measure.Content
	for _, part := range parts {
		var size int64
		for _, c := range part {
			size += c.Size()
		}
		pieces = append(pieces, part...)
		if pad := padding(size); pad != "" {
			pieces = append(pieces, measure.Bytes([]byte(pad)))
		}
	}
	return pieces
}
