#!/usr/bin/env perl
# A TCP connection that passes at most so many bytes a second from the server to the client, as a slow network does.
#
# Usage: slow_link.pl PORT BYTES_PER_SECOND      prints the port that it listens on, and runs until it is killed
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(sleep time);

my ($target, $rate) = @ARGV;
$| = 1;
$SIG{CHLD} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 10) or die "listen: $!";
print $listener->sockport, "\n";
while (my $client = $listener->accept) {
    next if fork;
    my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $target) or exit 1;
    my $both = IO::Select->new($client, $server);
    my ($passed, $since) = (0, time);
    while (my @ready = $both->can_read) {
        for my $from (@ready) {
            my $to = $from == $client ? $server : $client;
            my $length = sysread $from, my $data, 65536;
            exit 0 unless $length;
            for (my $at = 0; $at < $length;) { $at += syswrite($to, $data, $length - $at, $at) // exit 0 }
            next if $from == $client;
            # What was not used in the last tenth of a second is gone.
            my $due = $passed / $rate;
            my $elapsed = time - $since;
            if ($elapsed > $due + 0.1) { ($passed, $since, $due, $elapsed) = (0, time, 0, 0) }
            $passed += $length;
            $due = $passed / $rate;
            sleep $due - $elapsed if $due > $elapsed;
        }
    }
}
