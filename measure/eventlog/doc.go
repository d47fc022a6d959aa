// Package eventlog reads the event logs of a machine: what was extended into
// which PCR, in order.
//
// The firmware log ([ParseFirmware]) is what firmware, boot loaders and
// systemd-stub wrote before the kernel took over; Linux exports it as
// /sys/kernel/security/tpm0/binary_bios_measurements. It ends with
// ExitBootServices, and a kexec leaves it as it is. What the kernel (PCR 10, IMA)
// and userspace (the phase words in PCR 11, and others) extend after that is not
// in it, so the replay of those PCRs is not what the TPM holds.
//
// The userspace log ([ParseUserspace]) is what systemd extends after that, and
// mkexec before a kexec; it is /run/log/systemd/tpm2-measure.log, which package
// logfile reads and writes. [Stamp] makes records of mkexec's: they have the
// content type mkexec, and content with the members
//
//	bootId       boot id of the kernel that was running
//	timestamp    CLOCK_BOOTTIME of it, in microseconds
//	eventType    kexec
//	type         TCG event type that systemd-stub would have logged, such as EV_IPL
//	description  what was hashed, such as "section .linux: data"
//	size         how many bytes that is
//	image        SHA-256 of the UKI, or of the bare kernel
//	incomplete   true if the log lacked an event by then; otherwise absent
//
// systemd-pcrlock of 262 replays them and leaves out the content.
//
// A [Timeline] has both logs, and tells how they compare with the PCRs of a TPM.
//
// A log proves nothing by itself: anybody can write one. Only a replay that
// equals the PCRs of a TPM shows that the digests in it were extended. Types,
// event data and descriptions are not covered even then.
//
// The package is pure: it needs no TPM, no root and no Linux.
package eventlog
