import argparse


def get_args(argv=None):
    parser = argparse.ArgumentParser("textclf")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("-m", "--momentum", type=float, default=0.9)
    return parser.parse_args(argv)
