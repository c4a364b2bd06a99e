# What the services on the Java machine share: a fitting JDK, their jars, small tools. Sourced by services.sh, never run.
# shellcheck shell=bash
set -euo pipefail

DEPENDENCY_PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.6.1

# usage: find_jdk OLDEST NEWEST; the home of a JDK in that range: one that the environment names, the one on the PATH, one beside that.
find_jdk() {
    local on_path candidate version
    on_path=$(readlink -f "$(command -v java || echo /bin/java)")
    on_path=${on_path%/bin/java}
    for candidate in "${SERVICES_JAVA_HOME:-}" "${JAVA_HOME:-}" "$on_path" "${on_path%/*}"/* /usr/lib/jvm/*; do
        if [ ! -x "$candidate/bin/javac" ] || [ ! -r "$candidate/release" ]; then continue; fi
        version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$candidate/release")
        if [ "${version:-0}" -ge "$1" ] && [ "${version:-0}" -le "$2" ]; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Kafka wants 17 or newer; Cassandra 5.0 runs on 17 and on none since 24.
fitting_jdk() {
    case $1 in
    kafka) find_jdk 17 25 ;;
    cassandra) find_jdk 17 17 ;;
    esac
}

jdk_of() {
    fitting_jdk "$1" || fail "$1 needs a JDK 17 (Debian 12: openjdk-17-jdk-headless); SERVICES_JAVA_HOME names one that is not found"
}

# usage: jars NAME; where NAME's jars lie. What is wanted is part of the path, so that a change of it takes nothing from a service that runs.
jars() {
    echo "$CACHE/$1-$(cat "$FILES/$1/pom.xml" "$FILES/$1/jars.sha256" "$FILES/$1"/*.java | sha256sum | cut -c1-12)"
}

# usage: install_jars NAME SOURCE.java; copies the jars that NAME's pom.xml asks for, compares them with the hashes kept beside it, and
# compiles the one source file.
install_jars() {
    local name=$1 source=$2 directory home
    directory=$(jars "$name")
    [ ! -f "$directory/installed" ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        need mvn maven
        fitting_jdk "$name" >/dev/null || install_packages openjdk-17-jdk-headless
    fi
    command -v mvn >/dev/null 2>&1 || fail "Maven is missing: install Debian's package maven"
    home=$(jdk_of "$name")
    mkdir -p "$CACHE"
    (
        flock 8
        # Another caller may have done it while this one waited.
        [ ! -f "$directory/installed" ] || exit 0
        echo "fetching $name"
        rm -rf "$directory"
        mkdir -p "$directory/classes"
        quietly mvn -B -q -Dstyle.color=never -f "$FILES/$name/pom.xml" "$DEPENDENCY_PLUGIN:copy-dependencies" \
            -DincludeScope=runtime -DoutputDirectory="$directory/lib" || fail "Maven cannot fetch $name"
        cd "$directory/lib"
        quietly sha256sum --check --strict --quiet "$FILES/$name/jars.sha256" || fail "a jar of $name is not the one that was tested"
        [ "$(find . -name '*.jar' | wc -l)" -eq "$(wc -l <"$FILES/$name/jars.sha256")" ] ||
            fail "there are more jars of $name than were tested"
        "$home/bin/javac" -cp "$directory/lib/*" -d "$directory/classes" "$FILES/$name/$source" || fail "$source does not compile"
        touch "$directory/installed"
    ) 8>"$CACHE/$name.lock"
}

# usage: java_tool NAME CLASS ARGUMENT...; a short-lived program with NAME's jars: starts quickly, uses little.
java_tool() {
    local directory home
    directory=$(jars "$1")
    home=$(jdk_of "$1")
    shift
    "$home/bin/java" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx256m -Dlog4j2.level=OFF \
        -cp "$directory/classes:$directory/lib/*" "$@"
}
