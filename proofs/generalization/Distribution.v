(* Finite-support probability distributions.

   A distribution is a list of outcomes with their probabilities; the same value may stand in it more than once. [E] is
   the expectation, [Prob] the probability of an event (any proposition about the value), [draws D n] the distribution
   of n independent draws from [D], as a list: the i.i.d. sample of statistical learning theory. Finite support is no
   restriction for data that a computer holds: 28 x 28 images of bytes are finitely many. *)

Require Import Reals Lra Lia List.
Import ListNotations.
Open Scope R_scope.

(* ---------- sums over lists ---------- *)

Definition sum_over {T} (f : T -> R) (l : list T) : R := fold_right (fun a r => f a + r) 0 l.

Section Sums.
  Context {T : Type}.
  Implicit Types (f g : T -> R) (l : list T).

  Lemma sum_over_cons f a l : sum_over f (a :: l) = f a + sum_over f l.
  Proof. reflexivity. Qed.

  Lemma sum_over_app f l k : sum_over f (l ++ k) = sum_over f l + sum_over f k.
  Proof. induction l; simpl; lra. Qed.

  Lemma sum_over_le_on f g l : (forall a, In a l -> f a <= g a) -> sum_over f l <= sum_over g l.
  Proof.
    induction l as [|a l IH]; simpl; intros H; [lra|].
    apply Rplus_le_compat; [apply H; now left | apply IH; intros; apply H; now right].
  Qed.

  Lemma sum_over_ext_on f g l : (forall a, In a l -> f a = g a) -> sum_over f l = sum_over g l.
  Proof. intros H; apply Rle_antisym; apply sum_over_le_on; intros a I; rewrite (H a I); apply Rle_refl. Qed.

  Lemma sum_over_plus f g l : sum_over (fun a => f a + g a) l = sum_over f l + sum_over g l.
  Proof. induction l; simpl; lra. Qed.

  Lemma sum_over_scal c f l : sum_over (fun a => c * f a) l = c * sum_over f l.
  Proof. induction l; simpl; [ring | rewrite IHl; ring]. Qed.

  Lemma sum_over_const c l : sum_over (fun _ => c) l = INR (length l) * c.
  Proof.
    induction l; [simpl; ring|]. change (length (a :: l)) with (S (length l)).
    rewrite S_INR, sum_over_cons, IHl. ring.
  Qed.

  Lemma sum_over_nonneg f l : (forall a, In a l -> 0 <= f a) -> 0 <= sum_over f l.
  Proof.
    intros H. apply Rle_trans with (sum_over (fun _ => 0) l); [|now apply sum_over_le_on].
    rewrite sum_over_const; lra.
  Qed.

  Lemma sum_over_ge_term f l a : (forall a, In a l -> 0 <= f a) -> In a l -> f a <= sum_over f l.
  Proof.
    induction l as [|b l IH]; simpl; [easy|]. intros H [->|I].
    - assert (0 <= sum_over f l) by (apply sum_over_nonneg; auto). lra.
    - assert (0 <= f b) by auto. assert (f a <= sum_over f l) by auto. lra.
  Qed.
End Sums.

Lemma sum_over_map {S T} (g : S -> T) (f : T -> R) l : sum_over f (map g l) = sum_over (fun s => f (g s)) l.
Proof. induction l; simpl; congruence. Qed.

(* ---------- the indicator of an event ---------- *)

(* 1 where the proposition holds, else 0; that one of the two is so is part of the axioms of the real numbers. *)
Definition indicator (P : Prop) : R := if ClassicalDedekindReals.sig_not_dec P then 1 else 0.

Lemma indicator_le (P : Prop) x : (P -> 1 <= x) -> (~ P -> 0 <= x) -> indicator P <= x.
Proof.
  unfold indicator. intros Yes No. destruct (ClassicalDedekindReals.sig_not_dec P) as [NN|N]; [|now apply No].
  apply Rnot_lt_le. intros Less. apply NN. intros p. specialize (Yes p). lra.
Qed.

Lemma indicator_true (P : Prop) : P -> indicator P = 1.
Proof. unfold indicator. intros p. destruct (ClassicalDedekindReals.sig_not_dec P) as [|N]; [easy | now elim N]. Qed.

Lemma indicator_false (P : Prop) : ~ P -> indicator P = 0.
Proof. unfold indicator. intros n. destruct (ClassicalDedekindReals.sig_not_dec P) as [NN|]; [now elim NN | easy]. Qed.

Lemma indicator_range (P : Prop) : 0 <= indicator P <= 1.
Proof. unfold indicator. destruct (ClassicalDedekindReals.sig_not_dec P); lra. Qed.

Lemma indicator_mono (P Q : Prop) : (P -> Q) -> indicator P <= indicator Q.
Proof.
  intros H. apply indicator_le; [intros p; rewrite (indicator_true Q) by auto; lra | intros _; apply indicator_range].
Qed.

Lemma indicator_ext (P Q : Prop) : (P <-> Q) -> indicator P = indicator Q.
Proof. intros H. apply Rle_antisym; apply indicator_mono; apply H. Qed.

(* ---------- distributions, expectation, probability ---------- *)

Record distribution (A : Type) := {
  outcomes : list (A * R);
  outcomes_nonneg : forall o, In o outcomes -> 0 <= snd o;
  outcomes_sum_to_one : sum_over snd outcomes = 1 }.
Arguments outcomes {A}.

Section Expectation.
  Context {A : Type} (D : distribution A).

  Definition values : list A := map fst (outcomes D).
  Definition E (f : A -> R) : R := sum_over (fun o => snd o * f (fst o)) (outcomes D).
  Definition Prob (event : A -> Prop) : R := E (fun a => indicator (event a)).

  Lemma E_le_on f g : (forall a, In a values -> f a <= g a) -> E f <= E g.
  Proof.
    intros H. apply sum_over_le_on. intros o I. apply Rmult_le_compat_l; [now apply (outcomes_nonneg A D)|].
    apply H, in_map, I.
  Qed.

  Lemma E_ext_on f g : (forall a, In a values -> f a = g a) -> E f = E g.
  Proof. intros H. apply Rle_antisym; apply E_le_on; intros a I; rewrite (H a I); apply Rle_refl. Qed.

  Lemma E_le f g : (forall a, f a <= g a) -> E f <= E g.
  Proof. intros H. now apply E_le_on. Qed.

  Lemma E_ext f g : (forall a, f a = g a) -> E f = E g.
  Proof. intros H. now apply E_ext_on. Qed.

  Lemma E_plus f g : E (fun a => f a + g a) = E f + E g.
  Proof. unfold E; rewrite <- sum_over_plus; apply sum_over_ext_on; intros; ring. Qed.

  Lemma E_scal c f : E (fun a => c * f a) = c * E f.
  Proof. unfold E; rewrite <- sum_over_scal; apply sum_over_ext_on; intros; ring. Qed.

  Lemma E_const c : E (fun _ => c) = c.
  Proof.
    unfold E. rewrite (sum_over_ext_on _ (fun o => c * snd o)) by (intros; ring).
    rewrite sum_over_scal, (outcomes_sum_to_one A D). ring.
  Qed.

  Lemma E_complement f : E (fun a => 1 - f a) = 1 - E f.
  Proof. rewrite (E_ext _ (fun a => 1 + -1 * f a)) by (intros; ring). rewrite E_plus, E_const, E_scal. ring. Qed.

  Lemma E_range f : (forall a, 0 <= f a <= 1) -> 0 <= E f <= 1.
  Proof. intros H. split; [rewrite <- (E_const 0) | rewrite <- (E_const 1)]; apply E_le; apply H. Qed.

  Lemma E_sum {H} (f : H -> A -> R) (l : list H) :
    E (fun a => sum_over (fun h => f h a) l) = sum_over (fun h => E (f h)) l.
  Proof. induction l; simpl; [apply E_const | now rewrite E_plus, IHl]. Qed.

  Lemma Prob_range event : 0 <= Prob event <= 1.
  Proof. apply E_range. intros; apply indicator_range. Qed.

  (* An event that implies another one is at most as probable; only values that can occur matter. *)
  Lemma Prob_mono_on (P Q : A -> Prop) : (forall a, In a values -> P a -> Q a) -> Prob P <= Prob Q.
  Proof. intros H. apply E_le_on. intros a I. apply indicator_mono. now apply H. Qed.

  Lemma Prob_mono (P Q : A -> Prop) : (forall a, P a -> Q a) -> Prob P <= Prob Q.
  Proof. intros H. apply Prob_mono_on; auto. Qed.

  Lemma Prob_ext (P Q : A -> Prop) : (forall a, P a <-> Q a) -> Prob P = Prob Q.
  Proof. intros H. apply Rle_antisym; apply Prob_mono; apply H. Qed.

  Lemma Prob_impossible (P : A -> Prop) : (forall a, In a values -> ~ P a) -> Prob P = 0.
  Proof.
    intros H. unfold Prob. rewrite (E_ext_on _ (fun _ => 0)); [apply E_const|].
    intros a I. apply indicator_false. now apply H.
  Qed.

  Lemma Prob_not (P : A -> Prop) : Prob (fun a => ~ P a) = 1 - Prob P.
  Proof.
    unfold Prob. rewrite <- E_complement. apply E_ext. intros a. unfold indicator.
    destruct (ClassicalDedekindReals.sig_not_dec (P a)), (ClassicalDedekindReals.sig_not_dec (~ P a)); try easy; lra.
  Qed.

  (* Union bound: the probability that some event of a list occurs is at most the sum of their probabilities. *)
  Theorem Prob_union {H} (event : H -> A -> Prop) (l : list H) :
    Prob (fun a => exists h, In h l /\ event h a) <= sum_over (fun h => Prob (event h)) l.
  Proof.
    unfold Prob at 2. rewrite <- E_sum. apply E_le. intros a. apply indicator_le.
    - intros (h & I & e). rewrite <- (indicator_true (event h a) e).
      apply (sum_over_ge_term (fun h => indicator (event h a))); [intros; apply indicator_range | exact I].
    - intros _. apply sum_over_nonneg. intros; apply indicator_range.
  Qed.

  (* P[P or Q] <= P[P] + P[Q] *)
  Theorem Prob_or (P Q : A -> Prop) : Prob (fun a => P a \/ Q a) <= Prob P + Prob Q.
  Proof.
    unfold Prob. rewrite <- E_plus. apply E_le. intros a.
    pose proof (indicator_range (P a)). pose proof (indicator_range (Q a)).
    apply indicator_le; [intros [p|q] | intros _; lra].
    - rewrite (indicator_true (P a) p). lra.
    - rewrite (indicator_true (Q a) q). lra.
  Qed.
End Expectation.

(* ---------- one draw after another ---------- *)

Definition point {A} (a : A) : distribution A.
Proof. refine {| outcomes := [(a, 1)] |}; [intros o [<-|[]]; simpl; lra | simpl; ring]. Defined.

Section Composition.
  Context {A B : Type} (D : distribution A) (following : A -> distribution B).
  Let composed : list (B * R) :=
    flat_map (fun o => map (fun q => (fst q, snd o * snd q)) (outcomes (following (fst o)))) (outcomes D).

  Lemma sum_over_composed (f : B -> R) :
    sum_over (fun o => snd o * f (fst o)) composed = E D (fun a => E (following a) f).
  Proof.
    unfold composed, E. induction (outcomes D) as [|o l IH]; [reflexivity|].
    cbn [flat_map]. rewrite sum_over_app, sum_over_cons, IH, sum_over_map. f_equal.
    rewrite <- sum_over_scal. apply sum_over_ext_on. intros; simpl; ring.
  Qed.

  (* The value of [following a], where [a] is drawn from [D] first. *)
  Definition compose : distribution B.
  Proof.
    refine {| outcomes := composed |}.
    - intros o I. apply in_flat_map in I. destruct I as (d & Id & I).
      apply in_map_iff in I. destruct I as (q & <- & Iq).
      apply Rmult_le_pos; [apply (outcomes_nonneg A D), Id | apply (outcomes_nonneg B (following (fst d))), Iq].
    - rewrite (sum_over_ext_on _ (fun o => snd o * 1)) by (intros; ring).
      rewrite (sum_over_composed (fun _ => 1)), (E_ext D _ (fun _ => 1)) by (intros; apply E_const). apply E_const.
  Defined.

  Lemma E_compose f : E compose f = E D (fun a => E (following a) f).
  Proof. apply sum_over_composed. Qed.

  Lemma values_compose b : In b (values compose) -> exists a, In a (values D) /\ In b (values (following a)).
  Proof.
    unfold values, compose, composed. simpl. intros I. apply in_map_iff in I. destruct I as (o & <- & I).
    apply in_flat_map in I. destruct I as (d & Id & I). apply in_map_iff in I. destruct I as (q & <- & Iq).
    exists (fst d). split; simpl; apply in_map; assumption.
  Qed.
End Composition.

Lemma E_point {A} (a : A) f : E (point a) f = f a.
Proof. unfold E. simpl. ring. Qed.

(* Two independent draws, one from each distribution. *)
Definition product {A B} (D : distribution A) (F : distribution B) : distribution (A * B) :=
  compose D (fun a => compose F (fun b => point (a, b))).

Lemma E_product {A B} (D : distribution A) (F : distribution B) f :
  E (product D F) f = E D (fun a => E F (fun b => f (a, b))).
Proof.
  unfold product. rewrite E_compose. apply E_ext. intros a. rewrite E_compose. apply E_ext. intros b. apply E_point.
Qed.

(* What has probability at most c whatever the first draw has probability at most c. *)
Lemma Prob_product_le {A B} (D : distribution A) (F : distribution B) (event : A * B -> Prop) c :
  (forall a, Prob F (fun b => event (a, b)) <= c) -> Prob (product D F) event <= c.
Proof.
  intros H. unfold Prob. rewrite E_product. rewrite <- (E_const D c). apply E_le. exact H.
Qed.

(* ---------- n independent draws ---------- *)

Section Draws.
  Context {A : Type} (D : distribution A).

  Fixpoint draws (n : nat) : distribution (list A) :=
    match n with
    | O => point []
    | S m => compose D (fun a => compose (draws m) (fun sample => point (a :: sample)))
    end.

  Lemma E_draws_0 f : E (draws 0) f = f [].
  Proof. apply E_point. Qed.

  Lemma E_draws_S n f : E (draws (S n)) f = E D (fun a => E (draws n) (fun sample => f (a :: sample))).
  Proof.
    simpl. rewrite E_compose. apply E_ext. intros a. rewrite E_compose. apply E_ext. intros sample. apply E_point.
  Qed.

  Lemma draws_length n sample : In sample (values (draws n)) -> length sample = n.
  Proof.
    revert sample. induction n; intros sample I.
    - destruct I as [<-|[]]. reflexivity.
    - simpl in I. apply values_compose in I. destruct I as (a & _ & I). apply values_compose in I.
      destruct I as (rest & I & [<-|[]]). simpl. f_equal. now apply IHn.
  Qed.

  Lemma E_draws_le n f g : (forall sample, length sample = n -> f sample <= g sample) -> E (draws n) f <= E (draws n) g.
  Proof. intros H. apply E_le_on. intros sample I. apply H. now apply draws_length. Qed.

  (* The expectation of a product of functions of each example alone is the product of their expectations. *)
  Theorem E_draws_product n (f : A -> R) :
    E (draws n) (fun sample => fold_right (fun a r => f a * r) 1 sample) = E D f ^ n.
  Proof.
    induction n; [apply E_draws_0|]. rewrite E_draws_S. simpl.
    rewrite (E_ext D _ (fun a => E D f ^ n * f a)); [rewrite E_scal; ring|].
    intros a. rewrite E_scal, Rmult_comm. f_equal. exact IHn.
  Qed.
End Draws.
