package measure

import (
	"fmt"
	"hash"
	"runtime"
	"sync"
)

const (
	// chunkSize is how much of a content is read at a time, in bytes: large
	// enough that handing chunks around costs nothing, small enough for the
	// caches.
	chunkSize = 256 << 10
	// chunksAhead is how many chunks the reader may be ahead of the slowest hash.
	chunksAhead = 4
)

// A message is contents that are hashed as one, the first directly followed by
// the next.
type message struct {
	name  string // for errors
	parts []Content
	banks []Bank
}

// sumAll returns the digests of each message in its banks. Each content that
// begins one or more messages is read once for all of them and for all banks;
// a message that goes on after it (the initrd after the .initrd section) goes
// on from the state of the hash at that point. Contents are hashed side by
// side, and so are the banks, each in a goroutine of its own.
//
// progress, if not nil, is called with the number of bytes that have been
// hashed since the last call, from several goroutines.
func sumAll(messages []message, progress func(int64)) ([]map[Bank]Digest, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	// group the messages by the content they begin with
	var firsts []Content
	byFirst := map[Content][]int{}
	for i, m := range messages {
		c := m.parts[0]
		if byFirst[c] == nil {
			firsts = append(firsts, c)
		}
		byFirst[c] = append(byFirst[c], i)
	}

	digests := make([]map[Bank]Digest, len(messages))
	errs := make([]error, len(firsts))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for n, first := range firsts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			states := map[Bank]hash.Hash{}
			for _, i := range byFirst[first] {
				for _, b := range messages[i].banks {
					if states[b] == nil {
						states[b] = b.New()
					}
				}
			}
			name := messages[byFirst[first][0]].name
			err := hashContent(first, states, progress)
			for _, i := range byFirst[first] {
				if err == nil {
					name = messages[i].name
					digests[i], err = finish(messages[i], states, progress)
				}
			}
			if err != nil {
				errs[n] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return digests, nil
}

// finish hashes what follows the first part of m, whose hashes are states, and
// leaves states as they are for the next message.
func finish(m message, states map[Bank]hash.Hash, progress func(int64)) (map[Bank]Digest, error) {
	own := map[Bank]hash.Hash{}
	for _, b := range m.banks {
		c, err := states[b].(hash.Cloner).Clone() // all hashes of the standard library can
		if err != nil {
			return nil, err
		}
		own[b] = c
	}
	for _, c := range m.parts[1:] {
		if err := hashContent(c, own, progress); err != nil {
			return nil, err
		}
	}
	d := map[Bank]Digest{}
	for b, h := range own {
		d[b] = h.Sum(nil)
	}
	return d, nil
}

// hashContent writes c to all hashes. It reads each byte once, ahead of the
// hashes, which run side by side.
func hashContent(c Content, hashes map[Bank]hash.Hash, progress func(int64)) error {
	if c.Size() <= chunkSize {
		buf := make([]byte, c.Size())
		if err := readFull(c, buf, 0); err != nil {
			return fmt.Errorf("read at 0: %w", err)
		}
		for _, h := range hashes {
			h.Write(buf)
		}
		progress(c.Size())
		return nil
	}

	type chunk struct {
		data []byte
		left *sync.WaitGroup // hashes that have not seen it yet
	}
	var done sync.WaitGroup
	var queues []chan chunk
	for _, h := range hashes {
		q := make(chan chunk, chunksAhead)
		queues = append(queues, q)
		done.Go(func() {
			for ch := range q {
				h.Write(ch.data)
				ch.left.Done()
			}
		})
	}
	defer done.Wait()
	defer func() {
		for _, q := range queues {
			close(q)
		}
	}()

	ring := make([]chunk, chunksAhead)
	for i := range ring {
		ring[i] = chunk{make([]byte, chunkSize), new(sync.WaitGroup)}
	}
	for off, i := int64(0), 0; off < c.Size(); i++ {
		ch := ring[i%len(ring)]
		ch.left.Wait()
		n := min(chunkSize, c.Size()-off)
		ch.data = ch.data[:n]
		if err := readFull(c, ch.data, off); err != nil {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		ch.left.Add(len(queues))
		for _, q := range queues {
			q <- ch
		}
		off += n
		progress(n)
	}
	return nil
}

// Sum returns the digests of c in the given banks. It reads c once.
func Sum(c Content, banks ...Bank) (map[Bank]Digest, error) {
	d, err := sumAll([]message{{"sum", []Content{c}, banks}}, nil)
	if err != nil {
		return nil, err
	}
	return d[0], nil
}
