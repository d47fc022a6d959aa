package hwid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mkexec/mkexec/measure"
)

// The flattened devicetree (Devicetree Specification 0.4, section 5).
const (
	fdtMagic      = int64(0xd00dfeed)
	fdtVersion    = 17
	fdtHeaderSize = 40

	fdtBeginNode = 1
	fdtEndNode   = 2
	fdtProp      = 3
	fdtNop       = 4

	// maxFDTRead bounds how much of the structure block is looked at, in bytes.
	// Real devicetrees have compatible among the first properties.
	maxFDTRead = 1 << 20
)

// errNoCompatible is wrapped in the error for a devicetree whose root node has no
// compatible property.
var errNoCompatible = errors.New("no compatible property in the root node")

// FirstCompatible returns the first string of the property compatible of the root
// node of a flattened devicetree (systemd 262, src/boot/devicetree.c,
// devicetree_get_compatible). It refuses what the stub refuses, and so strings
// before the structure, and also versions other than 17 and an empty string.
func FirstCompatible(dtb measure.Content) (string, error) {
	s, err := firstCompatible(dtb)
	if err != nil {
		return "", fmt.Errorf("devicetree: %w", err)
	}
	return s, nil
}

func firstCompatible(dtb measure.Content) (string, error) {
	var h [fdtHeaderSize]byte
	if dtb.Size() < fdtHeaderSize {
		return "", fmt.Errorf("%d bytes: no header", dtb.Size())
	}
	if err := readAt(dtb, h[:], 0); err != nil {
		return "", err
	}
	number := func(i int) int64 { return int64(binary.BigEndian.Uint32(h[4*i:])) }
	if magic := number(0); magic != fdtMagic {
		return "", fmt.Errorf("magic 0x%08x: not 0x%08x", magic, fdtMagic)
	}
	total, nodes, names := number(1), number(2), number(3)
	namesSize, nodesSize := number(8), number(9)
	if version, compatible := number(5), number(6); version < fdtVersion || compatible > fdtVersion {
		return "", fmt.Errorf("version %d, compatible down to %d: not %d", version, compatible, fdtVersion)
	}
	if total > dtb.Size() {
		return "", fmt.Errorf("says that it has %d bytes, but has %d", total, dtb.Size())
	}
	if nodes < fdtHeaderSize || nodes%4 != 0 || nodesSize%4 != 0 || nodes+nodesSize > names {
		return "", fmt.Errorf("structure of %d bytes at %d: inside the header, not aligned to 4, or beyond the strings at %d",
			nodesSize, nodes, names)
	}
	if names+namesSize > total {
		return "", fmt.Errorf("strings of %d bytes at %d: outside its %d bytes", namesSize, names, total)
	}

	root := make([]byte, min(nodesSize, maxFDTRead))
	if err := readAt(dtb, root, nodes); err != nil {
		return "", err
	}
	isCompatible := func(name int64) (bool, error) {
		var b [len("compatible\x00")]byte
		if name >= namesSize {
			return false, fmt.Errorf("name at %d: outside the strings (%d bytes)", name, namesSize)
		}
		if name+int64(len(b)) > namesSize {
			return false, nil
		}
		err := readAt(dtb, b[:], names+name)
		return string(b[:]) == "compatible\x00", err
	}
	return rootCompatible(root, isCompatible)
}

// rootCompatible walks over the properties of the root node, which b begins with.
func rootCompatible(b []byte, isCompatible func(name int64) (bool, error)) (string, error) {
	off := 0
	number := func() (int64, error) {
		if len(b)-off < 4 {
			return 0, fmt.Errorf("structure: offset %d: ends, or goes on for more than %d bytes", off, maxFDTRead)
		}
		off += 4
		return int64(binary.BigEndian.Uint32(b[off-4:])), nil
	}
	token := func() (int64, error) {
		for {
			if t, err := number(); err != nil || t != fdtNop {
				return t, err
			}
		}
	}
	if t, err := token(); err != nil {
		return "", err
	} else if t != fdtBeginNode {
		return "", fmt.Errorf("structure: offset %d: token %d: not the begin of the root node", off-4, t)
	}
	if name, err := number(); err != nil {
		return "", err
	} else if name != 0 {
		return "", fmt.Errorf("structure: offset %d: the root node has a name", off-4)
	}
	for {
		t, err := token()
		if err != nil {
			return "", err
		}
		switch t {
		case fdtBeginNode, fdtEndNode: // properties come before nodes
			return "", errNoCompatible
		case fdtProp:
		default:
			return "", fmt.Errorf("structure: offset %d: token %d: unknown", off-4, t)
		}
		start := off - 4
		size, err := number()
		if err != nil {
			return "", err
		}
		name, err := number()
		if err != nil {
			return "", err
		}
		padded := (size + 3) &^ 3
		if padded > int64(len(b)-off) {
			return "", fmt.Errorf("structure: offset %d: property of %d bytes: beyond the structure, or the first %d bytes of it",
				start, size, maxFDTRead)
		}
		value := b[off:][:size]
		off += int(padded)
		if ok, err := isCompatible(name); err != nil {
			return "", fmt.Errorf("structure: offset %d: %w", start, err)
		} else if !ok {
			continue
		}
		first, _, _ := bytes.Cut(value, []byte{0})
		if len(value) == 0 || value[len(value)-1] != 0 || len(first) == 0 {
			return "", fmt.Errorf("structure: offset %d: compatible %.80q: not strings, each with a NUL", start, value)
		}
		return string(first), nil
	}
}
