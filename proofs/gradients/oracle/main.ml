(* Forward and backward of networks, as exact fractions, by the definitions that the theorems are about (Network.v).

   Reads from standard input, for each network, lines of a keyword and numbers such as -3/7 (matrices row by row):

     network relu B D H1 ... HL       or leaky-relu:1/100, identity; batch, features, units of each layer
     x ...                            B D numbers
     weight ...                       H D numbers, first layer first, each followed by
     bias ...                         H numbers, or the line  no-bias
     d_logits ...                     B HL numbers, the upstream gradient

   and prints  logits, d_x  and, layer by layer,  d_weight, d_bias  (or no-bias)  in the same form. *)
open Network

exception Bad of string

let line_number = ref 0
let bad expected = raise (Bad (Printf.sprintf "line %d: expected %s" !line_number expected))

let numbers = { zero = Q.zero; one = Q.one; add = Q.add; sub = Q.sub; mul = Q.mul;
                nonpositive = (fun q -> Q.sign q <= 0) }

let rec nat n = if n = 0 then O else S (nat (n - 1))

(* A fraction in digits: of_string would take inf, undef and decimals as well. *)
let number text =
  let plain = function '0' .. '9' | '-' | '/' -> true | _ -> false in
  match if String.for_all plain text then Q.of_string text else Q.undef with
  | q when Q.classify q = Q.ZERO || Q.classify q = Q.NZERO -> q
  | _ | exception (Invalid_argument _ | Failure _ | Division_by_zero) -> bad ("a fraction, found " ^ text)

let size text = match int_of_string_opt text with
  | Some n when n >= 1 && String.for_all (fun c -> '0' <= c && c <= '9') text -> n
  | _ -> bad ("a size of at least 1, found " ^ text)

let next_line () =
  incr line_number;
  List.filter (( <> ) "") (String.split_on_char ' ' (input_line stdin))

let values keyword count = function
  | word :: rest when word = keyword && List.length rest = count -> List.map number rest
  | _ -> bad (Printf.sprintf "%s and %d numbers" keyword count)

let rec rows columns = function
  | [] -> []
  | list -> List.filteri (fun i _ -> i < columns) list :: rows columns (List.filteri (fun i _ -> i >= columns) list)

let activation text = match String.split_on_char ':' text with
  | [ "relu" ] -> relu numbers
  | [ "identity" ] -> identity
  | [ "leaky-relu"; slope ] when Q.sign (number slope) > 0 -> leaky_relu numbers (number slope)
  | _ -> bad ("relu, leaky-relu:SLOPE or identity, found " ^ text)

let print keyword list =
  print_string keyword;
  List.iter (fun q -> print_char ' '; print_string (Q.to_string q)) list;
  print_newline ()

let layer features h =
  let weight = values "weight" (h * features) (next_line ()) in
  let bias = match next_line () with [ "no-bias" ] -> None | line -> Some (values "bias" h line) in
  { units = nat h; weight = rows features weight; bias }

let rec layers features = function [] -> [] | h :: above -> let l = layer features h in l :: layers h above

let network act b d widths =
  let x = rows d (values "x" (b * d) (next_line ())) in
  let all = List.rev (layers d widths) in
  let last, hidden = List.hd all, List.rev (List.tl all) in
  let classes = List.hd (List.rev widths) in
  let d_logits = rows classes (values "d_logits" (b * classes) (next_line ())) in
  print "logits" (List.concat (logits numbers act (nat b) (nat d) x hidden last));
  let d_x, parameters = gradients numbers act (nat b) (nat d) x hidden last d_logits in
  print "d_x" (List.concat d_x);
  List.iter (fun (weight, bias) ->
    print "d_weight" (List.concat weight);
    match bias with None -> print "no-bias" [] | Some b -> print "d_bias" b) parameters

let rec each_network () =
  match next_line () with
  | "network" :: act :: b :: d :: (_ :: _ as widths) ->
    network (activation act) (size b) (size d) (List.map size widths);
    each_network ()
  | _ -> bad "network, an activation, and sizes"
  | exception End_of_file -> ()

let () =
  try each_network () with
  | Bad message -> prerr_endline ("oracle: " ^ message); exit 2
  | End_of_file -> prerr_endline (Printf.sprintf "oracle: line %d: the network ends too soon" !line_number); exit 2
