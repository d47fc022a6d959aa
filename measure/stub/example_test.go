package stub_test

import (
	"fmt"
	"log"
	"os"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy"
)

// The value is what the real stub left in the TPM (testdata/golden/plain_262).
func Example() {
	r, err := os.Open("testdata/golden/plain_262/uki.efi")
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		log.Fatal(err)
	}
	f, err := uki.Open(r, info.Size())
	if err != nil {
		log.Fatal(err)
	}
	boot, err := stub.Load(f, stub.Options{Via: stub.ViaKexec})
	if err != nil {
		log.Fatal(err)
	}
	p, err := measure.Predict(&boot.Image, measure.Options{
		Base: measure.Zero([]measure.Bank{measure.SHA256}, measure.StubPCRs()...),
	})
	if err != nil {
		log.Fatal(err)
	}
	pcrs, err := p.At("") // before the first phase
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(pcrs[measure.SHA256][11])

	zero := make(measure.Digest, 32)
	disk := policy.Requirement{Name: "disk", At: "enter-initrd", Policy: policy.Accept{
		measure.SHA256: {12: {zero}},
	}}
	fmt.Println(policy.Requirements{disk}.Check(p))
	// Output:
	// fbcf1dab59ef3d1217d95df9d42ddbd0e460a77f962d653e1f8c443151b8839a
	// <nil>
}
