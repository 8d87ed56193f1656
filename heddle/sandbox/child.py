"""The first code of a sandboxed process: it gives up its rights, then becomes the program.

`run` starts this file as a script. Standard input holds a line of JSON, then the program. What
could not be given up, and that the program ran to its end, go to the report, a file, a line each.
Linux only, without privileges: Landlock, https://docs.kernel.org/userspace-api/landlock.html, for
files, and seccomp, https://docs.kernel.org/userspace-api/seccomp_filter.html, for processes,
network and signals. Standard library only: nothing else is on its path.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import types
from pathlib import Path

# System calls that the program has no use for, with their numbers on x86_64 and aarch64 (None: it
# has no such call), from Linux 6.9, arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # would open sockets unseen
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "shmget": (29, 194),  # what outlives a process
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "chmod": (90, None),  # what Landlock does not guard
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_X32_BIT = 0x40000000

# linux/filter.h and linux/seccomp.h
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_FIRST_ARGUMENT = 0, 4, 16
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38

# linux/landlock.h: rights to files and folders, as many bits as the kernel's version knows.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_NUM_RIGHTS_OF_VERSION = (13, 14, 15, 15)
_NUM_RIGHTS = 16
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_READABLE_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_READABLE_FILES = ("/dev/null", "/dev/urandom", "/dev/zero", "/etc/ld.so.cache", "/etc/localtime")

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h

Instruction = tuple[int, int, int, int]  # code, skipped if true, skipped if false, operand


def filter_instructions(machine: str) -> list[Instruction]:
    """Return the seccomp program for a kind of processor. Raises KeyError for an unknown one."""
    column = {"x86_64": 0, "aarch64": 1}[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _AT_ARCH),
        (_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    if machine == "x86_64":
        program += [(_IF_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    # Threads may be made; with clone3, whose arguments a filter cannot see, libraries do without.
    program += [(_IF_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    program += [
        (_IF_EQUAL, 0, 3, _CLONE[machine]),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_IF_BITS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _deny_calls(libc: ctypes.CDLL) -> bool:
    try:
        instructions = filter_instructions(platform.machine())
    except KeyError:
        return False
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("=HBBI", *each) for each in instructions)
    )
    program = struct.pack("@HP", len(instructions), ctypes.addressof(code))
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0


def _close_files(libc: ctypes.CDLL, scratch: str) -> bool:
    """Leave the scratch folder, and for reading Python and the system's libraries."""
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    num_rights = dict(enumerate(_NUM_RIGHTS_OF_VERSION, 1)).get(version, _NUM_RIGHTS)
    everything = (1 << num_rights) - 1
    handled = struct.pack("=Q", everything)
    ruleset = libc.syscall(_CREATE_RULESET, handled, len(handled), 0)
    if ruleset < 0:
        return False
    read = _EXECUTE | _READ_FILE
    allowed = dict.fromkeys((sys.base_prefix, *_READABLE_FOLDERS), read | _READ_DIR)
    allowed |= dict.fromkeys(_READABLE_FILES, read)
    allowed["/dev/null"] = read | _WRITE_FILE | (_TRUNCATE & everything)
    allowed[scratch] = everything
    for path, rights in allowed.items():
        if Path(path).exists():
            rule = struct.pack("=Qi", rights, os.open(path, os.O_PATH | os.O_CLOEXEC))
            if libc.syscall(_ADD_RULE, ruleset, 1, rule, 0) != 0:
                return False
    return libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0


def confine(scratch: str) -> list[str]:
    """Give up files, processes and network; return what this system could not withhold."""
    if sys.platform != "linux":
        return ["files", "network", "processes"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    libc.capset(header, bytes(24))  # so that root too keeps to its limits
    missing = [] if _close_files(libc, scratch) else ["files"]
    return missing if _deny_calls(libc) else [*missing, "network", "processes"]


def limit(settings: dict[str, int]) -> list[str]:
    """Bound what the process may take, for good; return what this system does not bound."""
    bounds = {
        resource.RLIMIT_CPU: settings["cpu_s"],
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_FSIZE: settings["file_bytes"],
        resource.RLIMIT_NOFILE: settings["num_open_files"],
        resource.RLIMIT_CORE: 0,
    }
    missing = []
    for kind, bound in bounds.items():
        try:
            resource.setrlimit(kind, (bound, bound))
        except (ValueError, OSError):
            if kind != resource.RLIMIT_AS:  # macOS has it in name only
                raise
            missing.append("memory")
    return missing


def main() -> None:
    """Read the order, confine this process, and run the program as `__main__`."""
    settings = json.loads(sys.stdin.readline())
    program = compile(sys.stdin.read(), "program.py", "exec", dont_inherit=True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    report = settings["report"]
    missing = [*limit(settings), *confine(os.getcwd())]
    if "processes" in missing:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # root is exempt
    os.write(report, f"{json.dumps(missing)}\n".encode())
    sys.argv = ["program.py"]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(program, module.__dict__)
    os.write(report, b"finished\n")


if __name__ == "__main__":
    main()
