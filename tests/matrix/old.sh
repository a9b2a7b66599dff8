# To be read inside of a chroot, with a folder of its own in $run: the programs of the system of MIMEO_OLD, at $old.
old=/old/lib/postgresql/$MIMEO_OLD/bin
# Its pg_config would tell where it was built for.
config_of() { # the pg_config of a folder of programs
    mkdir -p "$run/config$1"
    printf '#!/bin/sh\ncase $1 in --bindir) echo %s ;; --version) %s/postgres --version ;; esac\n' "$1" "$1" >"$run/config$1/pg_config"
    chmod -R 755 "$run/config$1"
    echo "$run/config$1/pg_config"
}
# What it needs of its own system, and this one lacks.
mkdir "$run/lib"
chmod 755 "$run/lib"
while lacking=$(LD_LIBRARY_PATH=$run/lib ldd "$old"/{postgres,pg_ctl,initdb} | sed -n 's/^\t\(.*\) => not found$/\1/p' | sort -u) && [ -n "$lacking" ]; do
    for library in $lacking; do cp -L "/old/lib/x86_64-linux-gnu/$library" "$run/lib/"; done
done
export LD_LIBRARY_PATH=$run/lib
