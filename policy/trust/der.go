package trust

import (
	"errors"
	"fmt"
)

const (
	// maxDepth bounds how deep DER may be nested. Signatures with time stamps
	// have some fifteen levels.
	maxDepth = 32
	// maxElements bounds the number of elements. Signatures have a few hundred.
	maxElements = 16384
)

// checkDER checks that b is one element in DER down to every primitive: lengths
// are definite, minimal and inside what is around them. PKCS#7 libraries accept
// BER as well, where they recurse without bound, copy, and let a child be longer
// than its parent; what has passed here they cannot read in another way.
func checkDER(b []byte) error {
	elements := 0
	rest, err := checkElement(b, 0, &elements)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes behind it", len(rest))
	}
	if err != nil {
		return fmt.Errorf("not DER: %w", err)
	}
	return nil
}

// checkElement checks the element that b begins with and returns what is behind it.
func checkElement(b []byte, depth int, elements *int) (rest []byte, err error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	if *elements++; *elements > maxElements {
		return nil, fmt.Errorf("more than %d elements", maxElements)
	}
	if len(b) < 2 {
		return nil, errors.New("truncated")
	}
	tag := b[0]
	if tag&0x1f == 0x1f {
		return nil, errors.New("a tag of more than one byte")
	}
	content, rest, err := splitLength(b[1:])
	if err != nil {
		return nil, err
	}
	for constructed := tag&0x20 != 0; constructed && len(content) > 0; {
		if content, err = checkElement(content, depth+1, elements); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// splitLength splits b, which begins with a length, into as many bytes and the rest.
func splitLength(b []byte) (content, rest []byte, err error) {
	n, b := int(b[0]), b[1:]
	if n == 0x80 {
		return nil, nil, errors.New("an indefinite length")
	}
	if n > 0x80 {
		size := n & 0x7f
		if size > 3 || size > len(b) {
			return nil, nil, fmt.Errorf("a length of %d bytes", size)
		}
		n = 0
		for _, c := range b[:size] {
			n = n<<8 | int(c)
		}
		if n < 0x80 || n>>(8*(size-1)) == 0 {
			return nil, nil, errors.New("a length that is not minimal")
		}
		b = b[size:]
	}
	if n > len(b) {
		return nil, nil, fmt.Errorf("%d bytes wanted, %d left", n, len(b))
	}
	return b[:n], b[n:], nil
}
