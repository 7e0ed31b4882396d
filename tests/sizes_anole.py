"""ANOLE's files are Chameleon's."""

from sizes_chameleon import check as check
