#!/bin/sh
# Keeps what ExaBGP tells of what it hears. Its own output stays open: ExaBGP takes its end for the end of this.
while read -r line; do echo "$line" >>/run/exabgp.json; done
