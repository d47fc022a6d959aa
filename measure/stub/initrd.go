package stub

import (
	"slices"

	"github.com/mkexec/mkexec/measure"
)

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

// composeInitrd returns the pieces of the initrd that the stub composes, and
// measures those of addons: microcode, of which the kernel takes the first, so
// that of the last addon first; then what systemd-boot hands over, the initrd,
// archives of sidecars, the files of /.extra, initrds of addons (systemd 262,
// src/boot/stub.c, run).
func (b *Boot) composeInitrd(sel selection, entry, archives [][]measure.Content, a *addons) []measure.Content {
	var parts [][]measure.Content
	for _, p := range slices.Backward(a.ucode) {
		b.measurePart(tagUcodeAddon, "microcode", p)
		parts = append(parts, []measure.Content{p})
	}
	if s := sel[".ucode"]; s != nil {
		parts = append(parts, []measure.Content{s})
	}
	parts = append(parts, entry...)
	if s := sel[".initrd"]; s != nil {
		parts = append(parts, []measure.Content{s})
	}
	parts = append(parts, archives...)
	for _, x := range extraFiles {
		if s := sel[x.section]; s != nil && x.since <= b.Stub.Major {
			parts = append(parts, Archive(".extra", 0o555, 0o444, File{x.name, s}))
		}
	}
	for _, p := range a.initrds {
		b.measurePart(tagInitrdAddon, "initrd", p)
		parts = append(parts, []measure.Content{p})
	}
	return join(parts)
}

// join puts initrds behind each other. Where there is more than one, each is
// padded with zero bytes to a multiple of 4; a single one is handed on as it is
// (systemd 262, src/boot/initrd.c, combine_initrds; ukify does the same).
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
