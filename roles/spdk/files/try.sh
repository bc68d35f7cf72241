#!/bin/sh
# Try a program where it is going to run: find its libraries, and let it say its version.
#
#   try.sh PROGRAM
#
# PROGRAM    a path; libraries may be in ../lib, and the program itself in ../libexec, as install.sh makes them
#
# Prints the version. Ends with status 3 and one line on stderr where it cannot run: all the libraries that are missing, or
# its own last words.
umask 022
program=$1
home=$(dirname "$(dirname "$program")")
real=$home/libexec/$(basename "$program")
[ -f "$real" ] || real=$program
missing=$(LD_LIBRARY_PATH=$home/lib ldd "$real" 2>/dev/null | awk '$2 == "=>" && $3 == "not" { print $1 }' | sort -u | tr '\n' ' ')
if [ -n "$missing" ]; then
    echo "these shared libraries are missing: $missing" >&2
    exit 3
fi
if ! said=$("$program" --version 2>&1); then
    echo "it does not say its version: $(echo "$said" | tail -n 1)" >&2
    exit 3
fi
echo "$said"
